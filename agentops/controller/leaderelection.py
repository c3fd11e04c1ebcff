"""One leader at a time, by a Lease (client-go `leaderelection.go`).

### Expected flow
`acquire` returns when the Lease is ours. `hold` renews it every `retry_period_s` until renewing
fails for `renew_deadline_s`, then raises LeaderElectionLost. After the leader's work has stopped,
`release` gives the Lease back if it is still ours, so that the next one need not wait. Then all this
can begin again.

### Guarantees
Two processes with this code, however wrong their wall clocks, do not lead at once: a candidate waits
the record's whole duration after the last change that it saw itself, and a leader stops
`lease_duration_s - renew_deadline_s` before that. A leader whose event loop is stuck, or whose work
has not stopped, is ended by a thread when the lease has run out.

### Assumptions
Clocks run at about the same rate. Boot time counts suspend. The work stops when its scope is cancelled.

### Caveats
A write that is on its way when leadership is lost can still arrive: optimistic locking decides.

### Errors
LeaderElectionLost from `hold`. Everything a request can raise is a failed try, never a crash.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import anyio
import orjson
from attrs import field, frozen

from agentops.controller.errors import BuildError, LeaderElectionLost
from agentops.kube.client import ApiClient
from agentops.kube.config import own_namespace
from agentops.kube.errors import Conflict, KubeError, NotFound, error_from_response
from agentops.kube.kinds import LEASE
from agentops.kube.watch import encode
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock, rfc3339

log = get_logger("controller.leaderelection")

_JITTER = 1.2
_RELEASE_TRIES = 5
_RELEASE_WAIT_S = 0.2


def _or_own_namespace(given: str) -> str:
    return given or own_namespace()


@frozen(slots=True)
class LeaderElectionOptions:
    """Which Lease, and how fast. `namespace` is the pod's own unless given, `identity` the host name and a fresh uuid.

    `lease_duration_s` 15: how long others wait for a silent leader; `renew_deadline_s` 10: how long a
    leader tries to renew; `retry_period_s` 2. `fence` ends the process when the loop is stuck. `on_lost` says what
    a manager does without the lease: "exit" ends it, "rejoin" stops the leader's work and campaigns again.
    """

    lease_name: str
    namespace: str = field(default="", converter=_or_own_namespace)
    identity: str | None = None
    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0
    release_on_cancel: bool = True
    fence: bool = True
    labels: Mapping[str, str] = field(factory=dict)
    on_lost: Literal["exit", "rejoin"] = "exit"

    def __attrs_post_init__(self) -> None:
        if not self.lease_name or not self.namespace:
            raise BuildError("leader election needs a lease name and, outside of a cluster, a namespace")
        if not self.lease_duration_s > self.renew_deadline_s > _JITTER * self.retry_period_s > 0:
            raise BuildError(
                f"leader election: lease_duration_s ({self.lease_duration_s:g}) must exceed renew_deadline_s "
                f"({self.renew_deadline_s:g}), and that {_JITTER} times retry_period_s ({self.retry_period_s:g})"
            )
        if self.on_lost not in ("exit", "rejoin"):
            raise BuildError(f"leader election: on_lost is {self.on_lost!r}; it is exit or rejoin")
        if self.lease_duration_s < 1:
            raise BuildError("leader election: lease_duration_s must be at least 1, leases count whole seconds")


@frozen(slots=True)
class ElectorStatistics:
    identity: str
    leading: bool
    holder: str
    last_renewal_s: float | None
    slow_paths: int
    failures: int


class LeaderElector:
    """One candidate. `acquire`, then `hold` beside the work, then `release`."""

    def __init__(
        self,
        client: ApiClient,
        options: LeaderElectionOptions,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        registry: Registry | None = None,
        on_new_leader: Callable[[str], None] | None = None,
        end_process: Callable[[], None] | None = None,
    ) -> None:
        self.options = options
        self.identity = options.identity or f"{socket.gethostname()}_{uuid.uuid4()}"
        self._client = client
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._on_new_leader = on_new_leader
        self._fence = _Fence(options.lease_duration_s, end_process) if options.fence else None
        self._lease: dict[str, Any] = {}
        self._observed: Any = None
        self._observed_at = float("-inf")
        self._reported = ""
        self._leading = False
        self._renewed_at: float | None = None
        self._slow_paths = self._failures = 0
        self._last_failure = ""
        registry = registry or Registry()
        self._gauge = registry.gauge("leader_election_master_status", "1 while leading.", ("name",)).labels(
            options.lease_name
        )
        self._gauge.set(0)
        self._slow = registry.counter(
            "leader_election_slowpath_total", "Renewals that had to read the lease first.", ("name",)
        ).labels(options.lease_name)

    @property
    def leading(self) -> bool:
        return self._leading

    def healthy(self, tolerance_s: float = 20.0) -> str | None:
        """Why the elector is not healthy: it leads, but has not renewed for lease and tolerance."""
        if not self._leading or self._renewed_at is None:
            return None
        age_s = self._clock.boottime() - self._renewed_at
        if age_s <= self.options.lease_duration_s + tolerance_s:
            return None
        return f"the lease was last renewed {age_s:.0f} s ago"

    async def acquire(self) -> None:
        """Wait until this candidate leads."""
        while not await self._try(renewing=False):
            await self._clock.sleep(self.options.retry_period_s * (1 + _JITTER * self._rng.random()))
        self._leading = True
        self._gauge.set(1)
        if self._fence is not None:
            self._fence.start()
        log.info("leader.elected", lease=self._name, identity=self.identity)

    async def hold(self) -> None:
        """Renew until it fails for the renew deadline, then raise LeaderElectionLost."""
        try:
            while True:
                await self._clock.sleep(self.options.retry_period_s)
                with anyio.move_on_after(self.options.renew_deadline_s):
                    while not await self._try(renewing=True):
                        if self._taken():
                            break
                        await self._clock.sleep(self.options.retry_period_s)
                    else:
                        continue
                raise LeaderElectionLost(
                    f"the lease {self._name} could not be renewed within {self.options.renew_deadline_s:g} s; "
                    f"its holder is {self._holder() or 'nobody'}"
                )
        except LeaderElectionLost:
            self._step_down()
            raise

    async def release(self) -> None:
        """Give the lease back if it is ours. Call it after the leader's work has stopped, however that came about:
        until then the fence stands. Bounded, failures are logged only.
        """
        if self._fence is not None:
            self._fence.stop()
        if not self._leading:
            return
        self._step_down()
        if not self.options.release_on_cancel:
            return
        with anyio.move_on_after(self.options.renew_deadline_s, shield=True) as bound:
            try:
                await self._give_back()
            except (KubeError, ValueError, TimeoutError) as error:
                log.warning("leader.release_failed", lease=self._name, error=str(error) or type(error).__name__)
                return
        if bound.cancelled_caught:
            log.warning("leader.release_failed", lease=self._name, error="no answer in time")

    def statistics(self) -> ElectorStatistics:
        renewed = self._renewed_at
        return ElectorStatistics(
            identity=self.identity,
            leading=self._leading,
            holder=self._holder(),
            last_renewal_s=None if renewed is None else self._clock.boottime() - renewed,
            slow_paths=self._slow_paths,
            failures=self._failures,
        )

    # one try

    async def _try(self, *, renewing: bool) -> bool:
        started = self._clock.boottime()
        try:
            won = await self._try_once(renewing)
        except (KubeError, ValueError, TypeError, TimeoutError) as error:
            self._failures += 1
            why = str(error) or type(error).__name__
            lost_race = isinstance(error, Conflict) and not renewing
            level = log.debug if lost_race or why == self._last_failure else log.warning  # candidates try for ever
            level("leader.try_failed", lease=self._name, error=why)
            self._last_failure = why
            return False
        self._last_failure = ""
        if won:
            self._renewed_at = started  # before the request: others may count from when it arrived
            if self._fence is not None:
                self._fence.renewed(self._clock.boottime() - started)
        return won

    async def _try_once(self, renewing: bool) -> bool:
        if renewing and self._lease and self._holder() == self.identity and self._valid():
            try:
                await self._put(self._spec(keep=True))
                return True
            except KubeError as error:
                self._slow_paths += 1
                self._slow.inc()
                log.debug("leader.slow_path", lease=self._name, error=str(error))
        try:
            self._observe(await self._request("GET", LEASE.path(self.options.namespace, self.options.lease_name)))
        except NotFound:
            await self._create()
            return True
        holder = self._holder()
        if holder and holder != self.identity and self._valid():
            return False
        await self._put(self._spec(keep=holder == self.identity))
        return True

    def _observe(self, lease: dict[str, Any]) -> None:
        """Note when the record changed, by our clock: remote timestamps are never compared with it."""
        record = lease.get("spec") or {}
        if record != self._observed or not self._lease:
            self._observed = record
            self._observed_at = self._clock.boottime()
        self._lease = lease
        holder = self._holder()
        if holder != self._reported:
            self._reported = holder
            if self._on_new_leader is not None:
                self._on_new_leader(holder)
            if holder != self.identity:
                log.info("leader.observed", lease=self._name, holder=holder)

    def _valid(self) -> bool:
        """Whether the holder may still lead, by the duration it wrote itself."""
        seconds = float((self._lease.get("spec") or {}).get("leaseDurationSeconds") or 0)
        return self._clock.boottime() < self._observed_at + seconds

    def _taken(self) -> bool:
        holder = self._holder()
        return bool(holder) and holder != self.identity

    def _holder(self) -> str:
        return str((self._lease.get("spec") or {}).get("holderIdentity") or "")

    def _spec(self, *, keep: bool) -> dict[str, Any]:
        """The record with us as holder; `keep` renews instead of taking over."""
        now = rfc3339(self._clock.now(), micro=True)
        old = self._lease.get("spec") or {}
        return {
            **old,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self.options.lease_duration_s),
            "renewTime": now,
            "acquireTime": (keep and old.get("acquireTime")) or now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if keep else 1),
        }

    async def _create(self) -> None:
        self._lease = {}
        metadata: dict[str, Any] = {"name": self.options.lease_name, "namespace": self.options.namespace}
        if self.options.labels:
            metadata["labels"] = dict(self.options.labels)
        spec = {**self._spec(keep=False), "leaseTransitions": 0}
        body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
        self._observe(await self._request("POST", LEASE.path(self.options.namespace), body))

    async def _put(self, spec: dict[str, Any]) -> None:
        metadata = dict(self._lease["metadata"])
        if self.options.labels:
            metadata["labels"] = {**(metadata.get("labels") or {}), **self.options.labels}
        body = {**self._lease, "metadata": metadata, "spec": spec}
        path = LEASE.path(self.options.namespace, self.options.lease_name)
        self._observe(await self._request("PUT", path, body))

    async def _give_back(self) -> None:
        """Try a few times, also when an answer is lost: it costs the next leader a lease duration if nobody does."""
        path = LEASE.path(self.options.namespace, self.options.lease_name)
        for left in range(_RELEASE_TRIES - 1, -1, -1):
            now = rfc3339(self._clock.now(), micro=True)
            spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
            try:
                if left < _RELEASE_TRIES - 1:
                    self._observe(await self._request("GET", path))
                    if self._holder() != self.identity:
                        return  # an answer was lost, or somebody has it by now
                await self._put({**(self._lease.get("spec") or {}), **spec})
                log.info("leader.released", lease=self._name)
                return
            except (KubeError, ValueError, TimeoutError) as error:
                if not left:
                    raise
                if not isinstance(error, Conflict):
                    await self._clock.sleep(_RELEASE_WAIT_S)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        timeout_s = max(1.0, self.options.renew_deadline_s / 2)
        headers = {"content-type": "application/json"} if body is not None else {}
        encoded = None if body is None else encode(body)
        try:
            with anyio.fail_after(timeout_s):  # also for transports that know no timeout
                answer = await self._client.raw(
                    method, path, headers=headers, body=encoded, timeout_s=timeout_s, retry=False
                )
        except TimeoutError as error:
            raise TimeoutError(f"{method} {path}: no answer within {timeout_s:g} s") from error
        decoded = orjson.loads(answer.body)
        if not isinstance(decoded, dict) or decoded.get("kind", "Lease") != "Lease":
            raise error_from_response(500, b"the answer is not a Lease")
        return decoded

    def _step_down(self) -> None:
        self._leading = False
        self._gauge.set(0)

    @property
    def _name(self) -> str:
        return f"{self.options.namespace}/{self.options.lease_name}"


class _Fence:
    """A thread that ends the process when renewals stop for longer than the lease: the loop is stuck."""

    def __init__(self, lease_duration_s: float, end_process: Callable[[], None] | None) -> None:
        self._lease_duration_s = lease_duration_s
        self._end_process = end_process or (lambda: os._exit(1))
        self._clock = SystemClock()  # threads have no event loop whose clock could be read
        self._renewed_at = 0.0
        self._stopped = threading.Event()

    def start(self) -> None:
        self._stopped = threading.Event()
        self._renewed_at = self._renewed_at or self._clock.boottime()
        threading.Thread(target=self._watch, args=(self._stopped,), name="leader-fence", daemon=True).start()

    def renewed(self, age_s: float) -> None:
        self._renewed_at = self._clock.boottime() - age_s

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self, stopped: threading.Event) -> None:
        while True:
            left_s = self._renewed_at + self._lease_duration_s - self._clock.boottime()
            if left_s <= 0:
                if not stopped.is_set():
                    log.error(
                        "leader.fenced", why="the lease has run out and the event loop is stuck, or the work goes on"
                    )
                    self._end_process()
                return
            if stopped.wait(min(left_s, 1.0)):
                return
