"""Retry policies, by tenacity, named after what they are for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

_T = TypeVar("_T")
_KNOCK_S = 5.0
"""The longest wait for something that may be there at any moment."""


async def retrying(
    call: Callable[[], Awaitable[_T]],
    *,
    when: Callable[[BaseException], bool],
    attempts: int = 3,
    first_s: float = 0.5,
    max_s: float = 20.0,
    factor: float = 2.0,
    jitter: float = 1.0,
    retry_after_s: Callable[[BaseException], float | None] = lambda _: None,
    patience_s: Callable[[BaseException], float] = lambda _: 0.0,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> _T:
    """Call until it succeeds; the last error is raised as it was.

    Only errors for which `when` is true are retried. Waits grow from `first_s` by `factor` up to `max_s`, each
    lengthened by up to `jitter` times `first_s`, and are never shorter than what `retry_after_s` reads from the error.
    With `patience_s` an error is retried beyond `attempts` until the waits together reach it, every few seconds.
    """
    backoff = wait_exponential_jitter(initial=first_s, max=max_s, exp_base=factor, jitter=jitter * first_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        floor = retry_after_s(error) if error is not None else None
        longest = _KNOCK_S if error is not None and patience_s(error) else max_s
        return max(min(backoff(state), longest), min(floor or 0.0, max_s))

    def stop(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        waited_out = error is None or state.idle_for >= patience_s(error)
        return state.attempt_number >= attempts and waited_out

    policy = AsyncRetrying(retry=retry_if_exception(when), stop=stop, wait=wait, reraise=True, sleep=sleep)

    async def attempt() -> _T:
        return await call()  # tenacity awaits coroutine functions only, and `call` may be a lambda or a partial

    return await policy(attempt)
