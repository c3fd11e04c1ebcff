"""Workers that take keys from a queue and reconcile them (controller-runtime `internal/controller`).

| a reconcile…              | queue                             | result label  | also counted        |
|---------------------------|-----------------------------------|---------------|---------------------|
| raises                    | again, growing wait, same priority| error         | errors              |
| raises RetryAfter(s)      | again in s                        | error         | errors              |
| raises TerminalError      | not again                         | error         | errors, terminal    |
| overruns its timeout      | again, growing wait               | error         | errors, timeouts    |
| raises StaleCache         | again, growing wait               | requeue       | stale_sync_skips    |
| returns requeue_after > 0 | failures forgotten, again then    | requeue_after |                     |
| returns                   | failures forgotten                | success       |                     |

The same key never runs twice at once. Workers start when every source has synced.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import field, frozen

from agentops.controller.errors import (
    BuildError,
    CacheSyncTimeout,
    ControllerError,
    RetryAfter,
    StaleCache,
    TerminalError,
)
from agentops.controller.informer import ObjectEvent
from agentops.controller.metrics import ControllerMetrics, QueueMetrics
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.rate_limiters import RateLimiter
from agentops.controller.rate_limiting_queue import RateLimitingQueue
from agentops.controller.reconcile import Reconciler, Request, Result
from agentops.controller.source import LOW_PRIORITY, Enqueue, Source
from agentops.controller.triggers import TriggerLog, trigger_of
from agentops.controller.workqueue import QueueShutDown, QueueStatistics
from agentops.kube.errors import KubeError
from agentops.telemetry.logging import bind, get_logger
from agentops.telemetry.metrics import Registry
from agentops.telemetry.tracing import tracer
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind

log = get_logger("controller")
_tracer = tracer("controller")

_TURN_S = 0.005
_DONE = Result()
_reconcile_id: ContextVar[str] = ContextVar("agentops_reconcile_id", default="")


def reconcile_id() -> str:
    """The id of the reconcile this task belongs to, also in its logs; empty outside one."""
    return _reconcile_id.get()


@frozen(slots=True)
class ControllerOptions:
    """`max_concurrent` workers; `reconcile_timeout_s` None is no limit.

    Without `priority_queue` the classic FIFO; the default `rate_limiter` is per item exponential, with
    the classic queue also 10 retries a second over all items.

    `leader_only` controllers wait for leadership; `cache_sync_timeout_s` bounds the first lists.
    """

    max_concurrent: int = 1
    rate_limiter: RateLimiter | None = None
    priority_queue: bool = True
    reconcile_timeout_s: float | None = None
    leader_only: bool = True
    cache_sync_timeout_s: float = 120.0
    warmup: bool = False
    """Whether the sources are listened to before this process leads, so that taking over is quick."""
    initial_list_priority: int = LOW_PRIORITY
    """Of objects that were there before the controller was, and of resyncs; with 0 they wait like changes."""
    oldest_every: int = 8
    """Every so-manieth key taken is the one ready for longest, whatever its priority; 0: never, as in Go."""

    def __attrs_post_init__(self) -> None:
        if self.max_concurrent < 1:
            raise BuildError(f"max_concurrent is {self.max_concurrent}; a controller needs at least one worker")


@frozen(slots=True)
class ControllerStatistics:
    name: str
    workers: int
    active: int
    reconciles: int
    errors: int
    queue: QueueStatistics
    sources: tuple[str, ...] = field(factory=tuple)


class Controller:
    """One reconciler with its queue, sources and workers. Made by `Builder`; `run` once, or again after `reset`."""

    def __init__(
        self,
        name: str,
        reconcile: Reconciler,
        *,
        kind: Kind | None = None,
        options: ControllerOptions | None = None,
        sources: Sequence[Source] = (),
        registry: Registry | None = None,
        clock: Clock | None = None,
        explain: bool = False,
    ) -> None:
        self.name = name
        self.triggers = TriggerLog() if explain else None
        """Why keys were reconciled; None unless `explain`."""
        self.kind = kind
        self.options = options or ControllerOptions()
        self.leader_only = self.options.leader_only
        self._clock = clock or SystemClock()
        self._reconcile = reconcile
        registry = registry or Registry()
        self._metrics = ControllerMetrics(registry, name)
        self._metrics.max_concurrent.set(self.options.max_concurrent)
        self._observer = QueueMetrics(registry, name)
        self.queue = self._new_queue()
        self._sources = list(sources)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._started = self._warm = False
        self._stopping = False
        self._traced = False
        self._active = self._reconciles = self._errors = 0

    def watch(self, source: Source) -> None:
        """Add a source; when the controller runs, it starts at once."""
        self._sources.append(source)
        if self._tasks is not None:
            source.start(self._enqueue_for(source))
            self._tasks.start_soon(source.run)

    def enqueue(self, request: Request, after_s: float = 0.0) -> None:
        """Have `request` reconciled, from the controller's own event loop."""
        self._note(request, "enqueue", after_s=after_s)
        self.queue.add_after(request, after_s) if after_s > 0 else self.queue.add(request)

    def stop(self) -> None:
        """Hand out no more keys; `run` returns when the reconciles in progress have ended."""
        self._stopping = True
        self.queue.shutdown()

    def reset(self) -> None:
        """Be ready to run again after `run` has ended, with an empty queue; a warm controller listens again at once."""
        if self._tasks is not None:
            raise ControllerError(f"controller {self.name!r} runs")
        self._started = self._stopping = False
        self.queue = self._new_queue()
        if self._warm:
            for source in self._sources:
                source.start(self._enqueue_for(source))

    async def warm_up(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen to the sources before there are workers, until cancelled: the queue is full when `run` comes."""
        if self._started or self._warm:
            raise ControllerError(f"controller {self.name!r} was started before; build a new one")
        self._warm = True
        async with anyio.create_task_group() as tasks:
            self._start_sources(tasks)
            await self._wait_for_sync()
            task_status.started()
            await anyio.sleep_forever()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until stopped or cancelled. Raises CacheSyncTimeout naming the kind and the last error."""
        if self._started:
            raise ControllerError(f"controller {self.name!r} was started before; build a new one")
        self._started = True
        # without a tracer provider spans go nowhere, and cost a quarter of an empty reconcile
        self._traced = _tracer.start_span("probe").get_span_context().is_valid
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self.queue.run)
                if not self._warm:
                    self._start_sources(tasks)
                await self._wait_for_sync()
                task_status.started()
                async with anyio.create_task_group() as workers:
                    for _ in range(self.options.max_concurrent):
                        workers.start_soon(self._work, name=f"worker {self.name}")
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self.queue.shutdown()
            for source in self._sources:
                source.stop()

    def statistics(self) -> ControllerStatistics:
        return ControllerStatistics(
            name=self.name,
            workers=self.options.max_concurrent,
            active=self._active,
            reconciles=self._reconciles,
            errors=self._errors,
            queue=self.queue.statistics(),
            sources=tuple(source.name for source in self._sources),
        )

    def _new_queue(self) -> RateLimitingQueue[Request]:
        limiter, observer = self.options.rate_limiter, self._observer
        queue: RateLimitingQueue[Request] = (
            PriorityQueue(limiter, clock=self._clock, observer=observer, oldest_every=self.options.oldest_every)
            if self.options.priority_queue
            else RateLimitingQueue(limiter, clock=self._clock, observer=observer)
        )
        observer.watch(queue)  # type: ignore[arg-type]
        return queue

    # one key

    async def _work(self) -> None:
        began = self._clock.boottime()
        while not self._stopping:
            if self._clock.boottime() - began > _TURN_S:  # neither taking a key nor a cached read gives the loop away
                await anyio.lowlevel.checkpoint()
                began = self._clock.boottime()
            try:
                request, priority = await self.queue.get_with_priority()
            except QueueShutDown:
                return
            try:
                if not self._stopping:
                    await self._process(request, priority)
            finally:
                self.queue.done(request)  # synchronous: a cancelled worker leaves no key locked

    async def _process(self, request: Request, priority: int) -> None:
        identifier = os.urandom(16).hex()
        token = _reconcile_id.set(identifier)
        started = self._clock.boottime()
        self._active += 1
        self._metrics.active.inc()
        fields = {
            "controller": self.name,
            "namespace": getattr(request, "namespace", ""),
            "name": getattr(request, "name", str(request)),
            "reconcileID": identifier,
        }
        try:
            span = (
                _tracer.start_as_current_span(f"reconcile {self.name}", attributes=fields)
                if self._traced
                else nullcontext()
            )
            with bind(**fields), span:
                label = await self._decide(request, priority)
            self._reconciles += 1
            self._metrics.finished(label, self._clock.boottime() - started)
        finally:
            _reconcile_id.reset(token)
            self._active -= 1
            self._metrics.active.dec()

    async def _decide(self, request: Request, priority: int) -> str:
        """Run one reconcile and do what the table above says; the result label."""
        try:
            result = await self._call(request)
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit):
            raise
        except StaleCache as error:
            log.debug("reconcile.stale", why=str(error))
            self._metrics.stale()
            self._note(request, "stale cache", priority)
            self.queue.add_rate_limited(request, priority)
            return "requeue"
        except BaseException as error:
            if _holds_cancellation(error):
                raise
            self._failed(request, priority, error)
            return "error"
        self.queue.forget(request)
        if result.requeue_after is not None and result.requeue_after > 0:
            again = priority if result.priority is None else result.priority
            self._note(request, "requeue_after", again, after_s=result.requeue_after)
            self.queue.add_after(request, result.requeue_after, again)
            return "requeue_after"
        return "success"

    async def _call(self, request: Request) -> Result:
        call = self._reconcile(request)
        if not isinstance(call, Awaitable):
            raise TypeError(f"the reconciler of {self.name!r} must be an async function; it returned {call!r}")
        timeout_s = self.options.reconcile_timeout_s
        if timeout_s is None:
            return _result(await call)
        scope = anyio.CancelScope(deadline=anyio.current_time() + timeout_s)
        try:
            with scope:
                result = _result(await call)
        finally:
            if scope.cancel_called:  # also when the reconciler made another error of the cancellation
                self._metrics.timeout()
        if scope.cancel_called:  # also when it swallowed it
            raise TimeoutError(f"the reconcile took longer than {timeout_s:g} s")
        return result

    def _failed(self, request: Request, priority: int, error: BaseException) -> None:
        self._errors += 1
        self._metrics.error()
        if not isinstance(error, Exception):
            self._metrics.panic()
        again = find(error, RetryAfter)
        if is_terminal(error):
            self._metrics.terminal()
            log.error("reconcile.failed", error=describe(error), terminal=True)
        elif again is not None:
            log.warning("reconcile.failed", error=describe(error), retry_after_s=again.seconds)
            priority = priority if again.priority is None else again.priority
            self._note(request, "retry after", priority, after_s=again.seconds)
            self.queue.add_after(request, again.seconds, priority)
        else:
            expected = isinstance(error, ControllerError | KubeError | TimeoutError)
            write = log.warning if expected else log.exception
            write("reconcile.failed", error=describe(error), failures=self.queue.num_requeues(request) + 1)
            self._note(request, "retry", priority)
            self.queue.add_rate_limited(request, priority)

    def _start_sources(self, tasks: anyio.abc.TaskGroup) -> None:
        for source in self._sources:
            source.start(self._enqueue_for(source))
            tasks.start_soon(source.run)

    def _enqueue_for(self, source: Source) -> Enqueue:
        return self._enqueue if self.triggers is None else partial(self._enqueue_noted, source.name)

    def _enqueue(self, request: Request, priority: int, event: ObjectEvent | None = None) -> None:
        self.queue.add(request, priority)

    def _enqueue_noted(self, by: str, request: Request, priority: int, event: ObjectEvent | None = None) -> None:
        self._note(request, by, priority, event)
        self.queue.add(request, priority)

    def _note(
        self, request: Request, by: str, priority: int = 0, event: ObjectEvent | None = None, *, after_s: float = 0.0
    ) -> None:
        if self.triggers is not None:
            self.triggers.add(request, trigger_of(self._clock.now(), by, priority, event, after_s))

    async def _wait_for_sync(self) -> None:
        deadline = anyio.current_time() + self.options.cache_sync_timeout_s  # they all started just now
        for source in self._sources:
            with anyio.CancelScope(deadline=deadline) as scope:
                await source.wait_for_sync()
            if scope.cancelled_caught:
                raise CacheSyncTimeout(
                    f"controller {self.name!r}: {source.name} did not sync within "
                    f"{self.options.cache_sync_timeout_s:g} s: {source.why_not_synced()}"
                )


def _result(answer: object) -> Result:
    """What the reconciler returned. Raises TypeError for anything else, which is its failure and not the worker's."""
    if answer is None:
        return _DONE
    if not isinstance(answer, Result):
        raise TypeError(f"reconcile returned {answer!r}; return None, or Result(requeue_after=seconds)")
    return answer


def is_terminal(error: BaseException) -> bool:
    """Whether the error is, or was caused by, a TerminalError; of a group, whether all of it is."""
    if isinstance(error, TerminalError):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(is_terminal(leaf) for leaf in error.exceptions)
    return error.__cause__ is not None and is_terminal(error.__cause__)


def find(error: BaseException, kind: type[RetryAfter]) -> RetryAfter | None:
    """The first error of `kind` among causes and group members."""
    for link in _chain(error):
        if isinstance(link, kind):
            return link
        if isinstance(link, BaseExceptionGroup):
            for leaf in link.exceptions:
                found = find(leaf, kind)
                if found is not None:
                    return found
    return None


def describe(error: BaseException) -> str:
    """One line; a group of one is its member."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(leaf) for leaf in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _holds_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_holds_cancellation(leaf) for leaf in error.exceptions)
    return isinstance(error, anyio.get_cancelled_exc_class() | KeyboardInterrupt | SystemExit)
