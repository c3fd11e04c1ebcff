"""Probes: thresholds and schedule in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from agentops.local.kubelet.probes import Outcome, Prober, Schedule, Tracker, probe_forever
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


class Script:
    """Gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []
        self.verdicts: list[tuple[float, bool]] = []
        self.failures: list[str] = []

    async def ask(self) -> Outcome:
        self.asked.append(anyio.current_time())
        ok = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Outcome(ok, "" if ok else "refused")

    async def verdict(self, ok: bool) -> None:
        self.verdicts.append((anyio.current_time(), ok))

    async def run(self, kind: str, probe: dict, for_s: float) -> None:
        clock = LoopClock()
        with anyio.move_on_after(for_s):
            await probe_forever(
                kind,
                Schedule.of(probe),
                self.ask,
                self.verdict,
                self.failures.append,
                clock,
                started_at=clock.boottime(),
            )


async def test_a_verdict_needs_as_many_equal_answers_in_a_row_as_the_threshold_says() -> None:
    tracker = Tracker(Schedule(failure_threshold=3, success_threshold=2), verdict=True)
    assert [tracker.observe(ok) for ok in (False, False, True, False, False, False)] == [False] * 5 + [True]
    assert tracker.verdict is False
    assert [tracker.observe(ok) for ok in (True, True)] == [False, True]


async def test_readiness_turns_true_at_the_first_success_and_false_after_three_failures() -> None:
    script = Script(False, True, True, False, False, False)
    began = anyio.current_time()
    await script.run("Readiness", {"periodSeconds": 10}, 55)
    assert [(round(at - began), ok) for at, ok in script.verdicts] == [(10, True), (50, False)]
    assert script.failures[0] == "Readiness probe failed: refused"


async def test_the_first_question_waits_for_the_initial_delay() -> None:
    script = Script(True)
    began = anyio.current_time()
    await script.run("Liveness", {"initialDelaySeconds": 7, "periodSeconds": 5}, 13)
    assert [round(at - began) for at in script.asked] == [7, 12]
    assert script.verdicts == []


async def test_a_startup_probe_ends_with_its_first_verdict() -> None:
    script = Script(False, False, True)
    await script.run("Startup", {"periodSeconds": 1, "failureThreshold": 30}, 100)
    assert [ok for _, ok in script.verdicts] == [True]
    assert len(script.asked) == 3


async def test_liveness_condemns_after_the_failure_threshold() -> None:
    script = Script(True, False)
    began = anyio.current_time()
    await script.run("Liveness", {"periodSeconds": 10, "failureThreshold": 2}, 25)
    assert [(round(at - began), ok) for at, ok in script.verdicts] == [(20, False)]


async def test_an_answer_that_takes_too_long_is_a_failure() -> None:
    failures: list[str] = []
    clock = LoopClock()

    async def never() -> Outcome:
        await anyio.sleep_forever()
        raise AssertionError

    async def ignore(_: bool) -> None: ...

    with anyio.move_on_after(5):
        await probe_forever("Readiness", Schedule(timeout_s=2), never, ignore, failures.append, clock, started_at=0)
    assert failures == ["Readiness probe failed: no answer within 2s"]


@pytest.mark.parametrize("port", [99999999, 0, -1])
async def test_a_port_that_cannot_be_is_a_failure_not_a_crash(port: int) -> None:
    async def run(_: Sequence[str]) -> tuple[int, str]:
        raise AssertionError

    assert not (await Prober("127.0.0.1", {}, run).ask({"tcpSocket": {"port": port}})).ok
