"""What pods need from the API server, and nothing more.

`PodApi` is the seam: the worker of a pod knows this protocol only. `ClusterApi` is the real one, on the
framework's client: reads of Secrets and ConfigMaps are live, Services come from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agentops.controller import Client, EventRecorder
from agentops.kube import kinds
from agentops.kube.errors import Conflict, NotFound
from agentops.local.kubelet.volumes import Token, VolumeSource
from agentops.values.clock import Clock, parse_rfc3339
from agentops.values.kinds import Kind

Object = Mapping[str, Any]

_OPTIONAL_CONDITION_KEYS = ("reason", "message")


class PodApi(VolumeSource, Protocol):
    """Reads and writes for pods. Everything may raise `KubeError`."""

    async def services(self) -> list[dict[str, Any]]: ...

    async def patch_status(self, pod: Object, status: Object) -> bool:
        """False when this very pod (by uid) is no more."""
        ...

    async def delete(self, pod: Object) -> None:
        """Say that the pod has stopped; absent is fine."""
        ...

    def event(self, pod: Object, type: str, reason: str, message: str, container: str = "") -> None:
        """Record an Event; never blocks, never raises."""
        ...


class ClusterApi:
    """`PodApi` on the framework's client."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock

    async def secret(self, namespace: str, name: str) -> Object | None:
        return await self._find(kinds.SECRET, name, namespace)

    async def config_map(self, namespace: str, name: str) -> Object | None:
        return await self._find(kinds.CONFIG_MAP, name, namespace)

    async def claim(self, namespace: str, name: str) -> Object | None:
        return await self._find(kinds.PVC, name, namespace)

    async def volume(self, name: str) -> Object | None:
        return await self._find(kinds.PV, name, "")

    async def _find(self, kind: Kind, name: str, namespace: str) -> Object | None:
        try:
            return await self._client.live.get(kind, name, namespace)
        except NotFound:
            return None

    async def token(self, pod: Object, audience: str, expiration_s: int) -> Token:
        meta, spec = pod["metadata"], pod["spec"]
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {},
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": expiration_s,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        answer = await self._client.live.create(
            kinds.SERVICE_ACCOUNT, request, namespace=meta["namespace"], name=account, subresource="token"
        )
        status = answer["status"]
        lifetime = parse_rfc3339(status["expirationTimestamp"]) - self._clock.now()
        return Token(status["token"], max(0.0, lifetime.total_seconds()))

    async def services(self) -> list[dict[str, Any]]:
        return await self._client.list(kinds.SERVICE)

    async def patch_status(self, pod: Object, status: Object) -> bool:
        meta = pod["metadata"]
        # A merge keeps what it is not told about: a reason that is gone must be said to be gone.
        conditions = [{**dict.fromkeys(_OPTIONAL_CONDITION_KEYS), **c} for c in status.get("conditions") or ()]
        body = {
            "metadata": {"uid": meta["uid"]},
            "status": {**dict.fromkeys(_OPTIONAL_CONDITION_KEYS), **status, "conditions": conditions},
        }
        try:
            await self._client.live.patch(
                kinds.POD, meta["name"], body, meta["namespace"], type="strategic", subresource="status"
            )
        except NotFound:
            return False
        except Conflict as error:
            if "UID" not in error.message and "uid" not in error.message:
                raise
            return False
        return True

    async def delete(self, pod: Object) -> None:
        meta = pod["metadata"]
        try:
            await self._client.live.delete(kinds.POD, meta["name"], meta["namespace"], grace_s=0, uid=meta["uid"])
        except NotFound:
            return
        except Conflict as error:
            if "UID" not in error.message and "uid" not in error.message:
                raise

    def event(self, pod: Object, type: str, reason: str, message: str, container: str = "") -> None:
        self._recorder.event(pod, type, reason, message, field_path=_field_path(pod, container) if container else "")


def _field_path(pod: Object, container: str) -> str:
    field = "initContainers" if any(c["name"] == container for c in pod["spec"].get("initContainers") or ()) else ""
    return f"spec.{field or 'containers'}{{{container}}}"
