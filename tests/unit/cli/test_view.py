"""What a person sees of a run, written by models and tools that may not mean well."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import trio.testing

from agentops.api.fep import Event
from agentops.cli.view import TAKEN_UP_WITHIN_S, View
from agentops.values.clock import parse_rfc3339

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x9b2J"
AROUND = "\u202etxt.exe"


def event(kind: str, **data: Any) -> Event:
    now = parse_rfc3339("2026-01-01T00:00:00Z")
    return Event(type=kind, session_id="s", seq=1, timestamp=now, run="r", data=data)


@pytest.mark.parametrize("live", [True, False])
def test_no_character_of_the_progress_acts(live: bool, capsys: pytest.CaptureFixture[str]) -> None:
    view = View(quiet=False, live=live)
    view.created(f"r{TITLE}")
    view.phase({"status": {"phase": "Running", "podName": f"p{CLEAR}"}})
    view.phase({"status": {"conditions": [{"type": "AgentReady", "status": "False", "message": f"m{TITLE}"}]}})
    view.event(event("tool_call", tool_name=f"bash{TITLE}", input=f"rm {AROUND}"))
    view.event(event("tool_result", output=f"{TITLE}{CLEAR}", is_error=True))
    view.event(event("agent_error", error=f"e{TITLE}"))
    shown = capsys.readouterr().err
    assert not any(character in shown for character in "\x1b\x07\x9b\u202e")
    assert "^[]0;owned^G" in shown
    assert r"\x9b2J" in shown
    assert r"rm \u202etxt.exe" in shown


def test_on_a_terminal_no_character_of_the_answer_acts(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(quiet=True, live=True)
    view.event(event("text_start"))
    view.event(event("text_delta", delta=f"one\n\ttwo{TITLE}"))
    view.finish("one\n\ttwo\ufffd]0;owned\ufffd")  # what the status keeps of it
    assert capsys.readouterr().out == "one\n\ttwo^[]0;owned^G\n"
    view.finish(f"another{CLEAR}")
    assert capsys.readouterr().out == "another\\x9b2J\n"


def test_elsewhere_the_answer_is_written_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    View(quiet=True, live=False).finish(f"{TITLE}\x1b[31mred{AROUND}\r\n")
    assert capsys.readouterr().out == f"{TITLE}\x1b[31mred{AROUND}\r\n\n"


@pytest.mark.parametrize("status", [None, {"phase": "Queued"}, {"conditions": [{"type": "Ready", "status": "True"}]}])
def test_after_a_while_it_is_said_that_nobody_took_the_run_up(
    status: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    async def follow() -> None:
        view = View(quiet=False, live=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(view.remind)
            await anyio.sleep(3600)  # no run yet
            view.created("r")
            view.phase({"status": status} if status else {})
            await anyio.sleep(TAKEN_UP_WITHIN_S - 1)
            assert "nobody" not in capsys.readouterr().err
            await anyio.sleep(3600)

    options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    anyio.run(follow, backend="trio", backend_options=options)
    shown = capsys.readouterr().err
    assert ("nobody has taken up agentrun/r in 8 s: does the operator run?" in shown) is (status is None)
