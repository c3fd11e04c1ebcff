"""Writes one pod's status: after every change, never twice the same, until the server has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio

from agentops.kube.errors import Invalid, KubeError
from agentops.local.kubelet.api import PodApi
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("kubelet.status")

Object = Mapping[str, Any]

RETRY_S = 1.0


class StatusWriter:
    """The only one who writes the status of a pod.

    `render(before)` makes the status from the one before it, for the times of its conditions; `gone` hears that
    the pod is no more.
    """

    def __init__(
        self,
        api: PodApi,
        clock: Clock,
        pod: Callable[[], Object],
        render: Callable[[Object], dict[str, Any]],
        gone: Callable[[], None],
    ) -> None:
        self._api = api
        self._clock = clock
        self._pod = pod
        self._render = render
        self._gone = gone
        self._written: Object | None = None
        self._changed = anyio.Event()
        self._lock = anyio.Lock()

    def touch(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            if not await self.write():
                await self._clock.sleep(RETRY_S)
                self.touch()

    async def write(self) -> bool:
        """Write what is true now. False when it must be tried again."""
        async with self._lock:
            pod = self._pod()
            status = self._render(self._before(pod))
            if status == self._written:
                return True
            try:
                exists = await self._api.patch_status(pod, status)
            except Invalid as error:
                # Saying the same again would be refused again, and a pod that ends must be able to go.
                log.error("kubelet.status.refused", pod=pod["metadata"]["name"], error=error.message)
                exists = True
            except KubeError as error:
                log.warning("kubelet.status.retry", pod=pod["metadata"]["name"], error=str(error))
                return False
            self._written = status
            if not exists:
                self._gone()
            return True

    def _before(self, pod: Object) -> Object:
        """What the server has, and where it may be behind, what we wrote last."""
        before = dict(pod.get("status") or {})
        if self._written is not None:
            ours = {c["type"]: c for c in self._written["conditions"]}
            foreign = (c for c in before.get("conditions") or () if c["type"] not in ours)
            before["conditions"] = [*ours.values(), *foreign]
        return before
