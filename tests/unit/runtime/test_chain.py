"""Retries and fallbacks, in virtual time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentops.runtime.errors import ProviderAuthFault, ProviderFault
from agentops.runtime.messages import user
from agentops.runtime.providers.base import CallOptions, Finish, SystemPrompt, TextDelta
from agentops.runtime.providers.breaker import FAILURES, PAUSE_S
from agentops.runtime.providers.chain import BoundModel, ModelChain, RetryPolicy, Switched
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

OK = (TextDelta("ok"), Finish("stop"))


def overloaded(**fields: Any) -> ProviderFault:
    return ProviderFault("overloaded", provider="p", status=503, retryable=True, kind="server_error", **fields)


async def ask(chain: ModelChain) -> list[Any]:
    turn = chain.turn()
    return [delta async for delta in turn.stream(SystemPrompt("sys"), [user("x")], [], CallOptions())]


async def test_a_passing_failure_is_asked_again(scripted: Any) -> None:
    adapter = scripted("p", [overloaded()], [overloaded()], OK)
    assert await ask(ModelChain((BoundModel(adapter, "m"),), LoopClock())) == list(OK)
    assert len(adapter.calls) == 3


async def test_the_last_failure_is_raised_when_retries_are_used_up(scripted: Any) -> None:
    adapter = scripted("p", *[[overloaded()]] * 3)
    with pytest.raises(ProviderFault, match="overloaded"):
        await ask(ModelChain((BoundModel(adapter, "m"),), LoopClock()))


async def test_a_model_that_keeps_failing_is_passed_over_for_a_while(scripted: Any) -> None:
    first = scripted("p", *[[overloaded()]] * (FAILURES + 1), OK)
    second = scripted("q", *[OK] * (FAILURES + 2))
    clock, policy = LoopClock(), RetryPolicy(max_retries=0)
    chain = ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), clock, policy)
    for _ in range(FAILURES):
        await ask(chain)
    switched, *_ = await ask(chain)
    assert "failed repeatedly" in switched.error
    assert len(first.calls) == FAILURES
    await clock.sleep(PAUSE_S)
    await ask(chain)
    assert len(first.calls) == FAILURES + 1, "after the pause it is tried once"
    await clock.sleep(PAUSE_S)
    assert await ask(chain) == list(OK)
    assert chain.breaker.pause_s("p/m") == 0


async def test_a_model_without_a_fallback_is_always_asked(scripted: Any) -> None:
    adapter = scripted("p", *[[overloaded()]] * FAILURES, OK)
    chain = ModelChain((BoundModel(adapter, "m"),), LoopClock(), RetryPolicy(max_retries=0))
    for _ in range(FAILURES):
        with pytest.raises(ProviderFault):
            await ask(chain)
    assert await ask(chain) == list(OK)


async def test_a_model_that_nobody_serves_yet_is_waited_for(scripted: Any) -> None:
    unheard = ProviderFault("refused", provider="p", retryable=True, kind="connection_error", unheard=True)
    clock = LoopClock()
    adapter = scripted("p", *[[unheard]] * 8, OK)
    assert await ask(ModelChain((BoundModel(adapter, "m"),), clock)) == list(OK)
    assert 20 < clock.boottime() < 32


async def test_nobody_waits_for_ever_for_a_model_that_nobody_serves(scripted: Any) -> None:
    unheard = ProviderFault("refused", provider="p", retryable=True, kind="connection_error", unheard=True)
    clock = LoopClock()
    with pytest.raises(ProviderFault, match="refused"):
        await ask(ModelChain((BoundModel(scripted("p", *[[unheard]] * 20), "m"),), clock))
    assert 30 <= clock.boottime() < 36


async def test_a_model_that_nobody_serves_is_not_waited_for_when_another_can_answer(scripted: Any) -> None:
    unheard = ProviderFault("refused", provider="p", retryable=True, kind="connection_error", unheard=True)
    first, second = scripted("p", *[[unheard]] * 3), scripted("q", OK)
    await ask(ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock()))
    assert len(first.calls) == 3


async def test_a_model_that_is_silent_is_not_waited_for_again_when_another_can_answer(scripted: Any) -> None:
    silent = ProviderFault("no answer", provider="p", retryable=True, kind="timeout")
    first, second = scripted("p", [silent]), scripted("q", OK)
    await ask(ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock()))
    assert len(first.calls) == 1
    alone = scripted("p", [silent], OK)
    assert await ask(ModelChain((BoundModel(alone, "m"),), LoopClock())) == list(OK)


async def test_a_refusal_is_neither_retried_nor_handed_on(scripted: Any) -> None:
    first = scripted("p", [ProviderAuthFault("bad key", provider="p", status=401)])
    second = scripted("q", OK)
    with pytest.raises(ProviderAuthFault):
        await ask(ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock()))
    assert second.calls == []


async def test_the_fallback_gets_the_same_messages_and_stays_for_the_turn(scripted: Any) -> None:
    first, second = scripted("p", *[[overloaded()]] * 3), scripted("q", OK, OK)
    chain = ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock())
    turn = chain.turn()
    deltas = [delta async for delta in turn.stream(SystemPrompt("sys"), [user("x")], [], CallOptions())]
    assert deltas == [Switched("p/m", "q/n", "overloaded", restarted=False), *OK]
    assert [delta async for delta in turn.stream(SystemPrompt("sys"), [user("y")], [], CallOptions())] == list(OK)
    assert turn.current.label == "q/n"
    assert first.calls[0][1:] == second.calls[0][1:]
    assert chain.turn().current.label == "p/m"


async def test_after_the_first_piece_there_is_no_retry_but_a_marked_switch(scripted: Any) -> None:
    first, second = scripted("p", [TextDelta("ha"), overloaded()]), scripted("q", OK)
    chain = ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock())
    assert await ask(chain) == [TextDelta("ha"), Switched("p/m", "q/n", "overloaded", restarted=True), *OK]
    assert len(first.calls) == 1


async def test_the_provider_says_how_long_to_wait(scripted: Any) -> None:
    adapter = scripted("p", [overloaded(retry_after_s=7.0)], OK)
    started = anyio.current_time()
    await ask(ModelChain((BoundModel(adapter, "m"),), LoopClock()))
    assert 7.0 <= anyio.current_time() - started < 8.0


async def test_a_provider_that_wants_too_long_is_not_waited_for(scripted: Any) -> None:
    first, second = scripted("p", [overloaded(retry_after_s=3600.0)]), scripted("q", OK)
    started = anyio.current_time()
    chain = ModelChain((BoundModel(first, "m"), BoundModel(second, "n")), LoopClock(), RetryPolicy())
    await ask(chain)
    assert anyio.current_time() == started
    assert len(first.calls) == 1
