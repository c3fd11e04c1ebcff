"""Retry policies, by tenacity, named after what they are for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

_T = TypeVar("_T")


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
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> _T:
    """Call until it succeeds; the last error is raised as it was.

    Only errors for which `when` is true are retried. Waits grow from `first_s` by `factor` up to `max_s`, each
    lengthened by up to `jitter` times `first_s`, and are never shorter than what `retry_after_s` reads from the error.
    """
    backoff = wait_exponential_jitter(initial=first_s, max=max_s, exp_base=factor, jitter=jitter * first_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        floor = retry_after_s(error) if error is not None else None
        return max(backoff(state), min(floor or 0.0, max_s))

    policy = AsyncRetrying(
        retry=retry_if_exception(when), stop=stop_after_attempt(attempts), wait=wait, reraise=True, sleep=sleep
    )

    async def attempt() -> _T:
        return await call()  # tenacity awaits coroutine functions only, and `call` may be a lambda or a partial

    return await policy(attempt)
