"""One Lease with optimistic locking for elections in virtual time, on lines that fail as networks do."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import anyio
from support.scripted_transport import ok, status

from agentops.kube.errors import TransportError
from agentops.kube.transport import Query, Response


class Lease:
    """`down` names who cannot reach it; `lossy` whose answers are lost; `slow` who has to wait, in seconds."""

    def __init__(self) -> None:
        self.obj: dict[str, Any] | None = None
        self.version = 0
        self.down: set[str] = set()
        self.lossy: set[str] = set()
        self.slow: dict[str, float] = {}
        self.history: list[tuple[float, str]] = []

    def transport(self, name: str) -> _Line:
        return _Line(self, name)

    def store(self, body: Mapping[str, Any]) -> Response:
        self.version += 1
        self.obj = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.history.append((anyio.current_time(), body["spec"]["holderIdentity"]))
        return ok(self.obj)

    def answer(self, method: str, body: Any) -> Response:
        if method == "GET":
            return ok(self.obj) if self.obj else status(404, "NotFound")
        if method == "POST":
            return status(409, "AlreadyExists") if self.obj else self.store(body)
        if body["metadata"]["resourceVersion"] != str(self.version):
            return status(409, "Conflict")
        return self.store(body)

    def random_weather(self, rng: random.Random, names: str) -> None:
        """Some lines break, others are slow or lose answers."""
        self.down = {name for name in names if rng.random() < 0.3}
        self.lossy = {name for name in names if rng.random() < 0.15}
        self.slow = {name: rng.uniform(0, 8) for name in names if rng.random() < 0.2}


class _Line:
    def __init__(self, lease: Lease, name: str) -> None:
        self.lease, self.name = lease, name

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float = 5.0,
    ) -> Response:
        lease = self.lease
        decoded = json.loads(body) if body else None
        try:
            await anyio.sleep(0.01 + lease.slow.get(self.name, 0.0))
        except anyio.get_cancelled_exc_class():
            if self.name in lease.slow:
                lease.answer(method, decoded)  # the server gets it although nobody waits any more
            raise
        if self.name in lease.down:
            await anyio.sleep(min(timeout_s, 3))
            raise TransportError("partition")
        answer = lease.answer(method, decoded)
        if self.name in lease.lossy:
            await anyio.sleep(min(timeout_s, 1))
            raise TransportError("the answer was lost")
        return answer
