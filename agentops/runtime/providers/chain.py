"""A primary model and its fallbacks: which one answers, how often it is asked, when the next one is.

A failure that may pass (typed status or a connection error, never message text) is retried on the
same model as long as nothing of its answer has been shown; then the next model in the list gets the
same messages, the same tools and the same system text. A model once switched to stays for the rest
of the turn; the next turn begins with the primary again. Where nobody listens and there is no next
model it is tried for longer: its server may be starting.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from attrs import field, frozen

from agentops.net.retry import retrying
from agentops.runtime.errors import ProviderFault
from agentops.runtime.messages import Message
from agentops.runtime.providers.base import Adapter, CallOptions, Delta, SystemPrompt, ToolSpec
from agentops.runtime.providers.breaker import Breaker
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.models")


@frozen
class BoundModel:
    """A model and the adapter that reaches it."""

    adapter: Adapter
    model: str

    @property
    def label(self) -> str:
        """`provider/model`, as events, records and metrics name it."""
        return f"{self.adapter.provider}/{self.model}"


@frozen
class Switched:
    """The next model takes over. With `restarted`, text already streamed belongs to the failed answer."""

    source: str
    target: str
    error: str
    restarted: bool


@frozen
class RetryPolicy:
    """Retries of one model before the next is asked."""

    max_retries: int = 2
    first_s: float = 0.5
    """Delay before the first retry; doubles, with jitter."""
    max_s: float = 20.0
    """The longest delay. A provider that asks for more (Retry-After) is not waited for."""
    patience_s: float = 30.0
    """How long in all a model is tried where nobody listens, if there is no other: its pod may be starting."""


@frozen
class ModelChain:
    """The models of an agent in the order they are tried. Immutable; `turn()` gives the state of one turn."""

    models: tuple[BoundModel, ...]
    clock: Clock
    policy: RetryPolicy = field(factory=RetryPolicy)
    breaker: Breaker = field(init=False, eq=False, repr=False)

    @breaker.default
    def _make_breaker(self) -> Breaker:
        return Breaker(self.clock)

    @property
    def primary(self) -> BoundModel:
        return self.models[0]

    def turn(self) -> TurnModels:
        return TurnModels(self)

    async def aclose(self) -> None:
        for adapter in {id(bound.adapter): bound.adapter for bound in self.models}.values():
            await adapter.aclose()


class TurnModels:
    """The chain during one turn."""

    def __init__(self, chain: ModelChain) -> None:
        self._chain = chain
        self._index = 0

    @property
    def current(self) -> BoundModel:
        """The model being asked now; after a stream, the one that answered."""
        return self._chain.models[self._index]

    async def stream(
        self, system: SystemPrompt, messages: Sequence[Message], tools: Sequence[ToolSpec], options: CallOptions
    ) -> AsyncGenerator[Delta | Switched, None]:
        """One model call with retries and fallbacks. Raises the last model's ProviderFault."""
        breaker = self._chain.breaker
        while True:
            shown = False
            label = self.current.label
            pause_s = breaker.pause_s(label)
            if pause_s and self._has_next:
                yield self._switch(f"{label} failed repeatedly; it is asked again in {pause_s:.0f} s", restarted=False)
                continue
            try:
                first, rest = await self._open(system, messages, tools, options)
                async with aclosing(rest):
                    shown = True
                    yield first
                    async for delta in rest:
                        yield delta
                breaker.answered(label)
                return
            except ProviderFault as fault:
                if fault.retryable:
                    breaker.failed(label)
                if not fault.retryable or not self._has_next:
                    raise
                yield self._switch(str(fault), restarted=shown)

    @property
    def _has_next(self) -> bool:
        return self._index + 1 < len(self._chain.models)

    def _switch(self, error: str, *, restarted: bool) -> Switched:
        source = self.current.label
        self._index += 1
        log.warning("model.fallback", source=source, target=self.current.label, error=error)
        return Switched(source, self.current.label, error, restarted)

    async def _open(
        self, system: SystemPrompt, messages: Sequence[Message], tools: Sequence[ToolSpec], options: CallOptions
    ) -> tuple[Delta, AsyncGenerator[Delta, None]]:
        """The first delta and the rest of a stream, with retries until the first delta is there."""
        bound, policy = self.current, self._chain.policy

        async def first() -> tuple[Delta, AsyncGenerator[Delta, None]]:
            stream = bound.adapter.stream(bound.model, system, messages, tools, options)
            try:
                return await anext(stream), stream
            except ProviderFault as fault:
                log.warning("model.call_failed", model=bound.label, kind=fault.kind, status=fault.status)
                raise

        return await retrying(
            first,
            when=self._worth_retrying,
            attempts=policy.max_retries + 1,
            first_s=policy.first_s,
            max_s=policy.max_s,
            retry_after_s=lambda error: error.retry_after_s if isinstance(error, ProviderFault) else None,
            patience_s=lambda error: policy.patience_s if self._patient(error) else 0.0,
            sleep=self._chain.clock.sleep,
        )

    def _patient(self, error: BaseException) -> bool:
        return isinstance(error, ProviderFault) and error.unheard and not self._has_next

    def _worth_retrying(self, error: BaseException) -> bool:
        if not isinstance(error, ProviderFault) or not error.retryable:
            return False
        if error.kind == "timeout" and error.status is None and self._has_next:
            return False  # it took minutes already, and somebody else can be asked
        return error.retry_after_s is None or error.retry_after_s <= self._chain.policy.max_s
