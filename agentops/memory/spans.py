"""A span `store.<operation>` around each call of a store: a trace tells the database's part from the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from agentops.memory.errors import MemoryServiceError
from agentops.telemetry.tracing import tracer

P = ParamSpec("P")
T = TypeVar("T")


def spanned(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """`method` in a span of its name; what it raises is the span's `error.type`."""
    name = f"store.{method.__name__}"

    @functools.wraps(method)
    async def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with tracer("memory.store").start_as_current_span(name, record_exception=False) as span:
            try:
                return await method(*args, **kwargs)
            except MemoryServiceError as error:
                span.set_attribute("error.type", error.kind)
                raise

    return inside
