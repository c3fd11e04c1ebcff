"""Claims get volumes, volumes are given back. `volumes` decides which and what; this writes and makes directories.

claim ──(first pod wants it)──► directory + volume ──► Bound
claim deleted ──(no pod uses it any more)──► volume Released ──(reclaimPolicy Delete)──► directory and volume gone
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio.to_thread

from agentops.controller import Builder, Controller, Manager, Request
from agentops.controller.finalizers import drop_finalizer
from agentops.controller.handlers import EnqueueMapped
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import POD, PV, PVC, STORAGE_CLASS
from agentops.local.controllers.claims import put_status, retrying_conflicts
from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    is_deleting,
    name_of,
    namespace_of,
    phase_of,
    uid_of,
)
from agentops.local.controllers.volumes import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    DEFAULT_CLASS,
    PROVISIONER,
    PV_PROTECTION,
    PVC_PROTECTION,
    SELECTED_NODE,
    claim_ref,
    claims_of,
    class_of,
    default_storage_class,
    is_bound_to,
    is_ours,
    match_volume,
    provisioned_volume,
    uses_claim,
    volume_path,
)
from agentops.telemetry.logging import get_logger

log = get_logger("local.volumes")

_CLAIM_INDEX = "claim"


def _by_claim(pod: Object) -> list[str]:
    return claims_of(pod)


async def ensure_storage_class(client: Any) -> None:
    """The default class, once; a user's changes to it stay."""
    try:
        await client.create(STORAGE_CLASS, default_storage_class())
    except AlreadyExists:
        return


class ClaimController:
    """Binds and provisions PersistentVolumeClaims, and protects the ones in use."""

    def __init__(self, manager: Manager, volumes_dir: Path) -> None:
        self._manager = manager
        self._client = manager.client
        self._dir = volumes_dir
        self._events = manager.legacy_recorder("persistentvolume-controller")
        manager.cache.informer(POD)
        manager.cache.add_index(POD, _CLAIM_INDEX, _by_claim)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("persistentvolumeclaim")
            .for_(PVC)
            .watches(PV, EnqueueMapped(_claim_of_volume))
            .watches(POD, EnqueueMapped(_claims_of_pod))
            .watches(STORAGE_CLASS, EnqueueMapped(lambda _: ()))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        claim = await self._client.try_get(PVC, request.name, request.namespace)
        if claim is None:
            return
        if is_deleting(claim):
            await self._unprotect(claim)
            return
        if (claim.get("status") or {}).get("phase") == "Bound" and claim["spec"].get("volumeName"):
            await self._check_bound(claim)
            return
        claim = await self._with_class(claim)
        volume = match_volume(claim, await self._client.list(PV)) or await self._provision(claim)
        if volume is not None:
            await self._bind(claim, volume)
        elif phase_of(claim) != "Pending":
            await put_status(self._client, PVC, claim, {**(claim.get("status") or {}), "phase": "Pending"})

    async def _used(self, claim: Object) -> bool:
        pods = await self._client.list(POD, namespace_of(claim), index=(_CLAIM_INDEX, name_of(claim)))
        return any(uses_claim(p, name_of(claim)) for p in pods)

    async def _unprotect(self, claim: Object) -> None:
        if PVC_PROTECTION not in (claim["metadata"].get("finalizers") or ()) or await self._used(claim):
            return
        live = await self._client.live.list(POD, namespace_of(claim))
        if any(uses_claim(p, name_of(claim)) for p in live):
            return
        await drop_finalizer(self._client, PVC, claim, PVC_PROTECTION)

    async def _check_bound(self, claim: Object) -> None:
        volume = await self._client.try_get(PV, claim["spec"]["volumeName"])
        if volume is None or not is_bound_to(volume, claim):
            message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            self._events.event(claim, "Warning", "ClaimLost", message)
            await put_status(self._client, PVC, claim, {**claim["status"], "phase": "Lost"})

    async def _with_class(self, claim: Object) -> Object:
        """A claim that names no class at all gets the default one, as soon as there is one."""
        if claim["spec"].get("storageClassName") is not None:
            return claim
        defaults = [c for c in await self._client.list(STORAGE_CLASS) if annotations_of(c).get(DEFAULT_CLASS) == "true"]
        if not defaults:
            return claim
        newest = max(defaults, key=lambda c: (c["metadata"].get("creationTimestamp", ""), name_of(c)))
        patch = {"spec": {"storageClassName": name_of(newest)}}
        return await self._client.patch(PVC, name_of(claim), patch, namespace_of(claim))

    async def _provision(self, claim: Object) -> Object | None:
        name = class_of(claim)
        if not name or claim["spec"].get("volumeName"):
            return None
        storage_class = await self._client.try_get(STORAGE_CLASS, name)
        if storage_class is None:
            self._events.event(claim, "Warning", "ProvisioningFailed", f'storageclass "{name}" not found')
            return None
        if storage_class.get("provisioner") != PROVISIONER:
            message = f'no provisioner {storage_class.get("provisioner")!r} here; the local plane has "{PROVISIONER}"'
            self._events.event(claim, "Warning", "ProvisioningFailed", message)
            return None
        waits = storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
        if waits and SELECTED_NODE not in annotations_of(claim) and not await self._used(claim):
            message = "waiting for first consumer to be created before binding"
            self._events.event(claim, "Normal", "WaitForFirstConsumer", message)
            return None
        path = volume_path(self._dir, claim)
        await anyio.to_thread.run_sync(_make_directory, path)
        volume = provisioned_volume(claim, storage_class, path)
        try:
            created = await self._client.create(PV, volume)
        except AlreadyExists:
            return await self._client.live.get(PV, name_of(volume))
        self._events.event(
            claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name_of(volume)}"
        )
        return created

    async def _bind(self, claim: Object, volume: Object) -> None:
        if (volume["spec"].get("claimRef") or {}).get("uid") != uid_of(claim):
            annotations = {**annotations_of(volume), BOUND_BY_CONTROLLER: "yes"}
            volume = await self._client.update(
                PV,
                {
                    **volume,
                    "metadata": {**volume["metadata"], "annotations": annotations},
                    "spec": {**volume["spec"], "claimRef": claim_ref(claim)},
                },
            )
        await put_status(self._client, PV, volume, {**(volume.get("status") or {}), "phase": "Bound"})
        if claim["spec"].get("volumeName") != name_of(volume) or BIND_COMPLETED not in annotations_of(claim):
            notes = {BIND_COMPLETED: "yes"}
            if not claim["spec"].get("volumeName"):
                notes[BOUND_BY_CONTROLLER] = "yes"
            patch = {
                "metadata": {"annotations": notes, "resourceVersion": claim["metadata"]["resourceVersion"]},
                "spec": {"volumeName": name_of(volume)},
            }
            claim = await self._client.patch(PVC, name_of(claim), patch, namespace_of(claim))
        status = {
            **(claim.get("status") or {}),
            "phase": "Bound",
            "accessModes": volume["spec"].get("accessModes") or [],
            "capacity": volume["spec"].get("capacity") or {},
        }
        await put_status(self._client, PVC, claim, status)


class VolumeController:
    """Keeps the phase of PersistentVolumes, and reclaims the ones whose claim is gone."""

    def __init__(self, manager: Manager, volumes_dir: Path) -> None:
        self._manager = manager
        self._client = manager.client
        self._dir = volumes_dir
        self._events = manager.legacy_recorder("persistentvolume-controller")

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("persistentvolume")
            .for_(PV)
            .watches(PVC, EnqueueMapped(_volume_of_claim))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        volume = await self._client.try_get(PV, request.name)
        if volume is None:
            return
        claim_gone = await self._claim_gone(volume)
        if is_deleting(volume):
            if claim_gone is not False:
                await self._remove_directory(volume)
                await drop_finalizer(self._client, PV, volume, PV_PROTECTION)
            return
        if PV_PROTECTION not in (volume["metadata"].get("finalizers") or ()):
            finalizers = [*(volume["metadata"].get("finalizers") or ()), PV_PROTECTION]
            metadata = {"finalizers": finalizers, "resourceVersion": volume["metadata"]["resourceVersion"]}
            volume = await self._client.patch(PV, name_of(volume), {"metadata": metadata})
        phase = {None: "Available", False: "Bound", True: "Released"}[claim_gone]
        if claim_gone is False and phase_of(volume) != "Bound":
            return  # the claim's controller says when it is bound
        if phase_of(volume) != phase:
            await put_status(self._client, PV, volume, {**(volume.get("status") or {}), "phase": phase})
        if claim_gone and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            await self._reclaim(volume)

    async def _claim_gone(self, volume: Object) -> bool | None:
        """Whether the claim it was bound to is gone; `None` when it is bound to none."""
        ref = volume["spec"].get("claimRef")
        if not ref or not ref.get("uid"):
            return None
        claim = await self._client.try_get(PVC, ref["name"], ref["namespace"])
        if claim is None:
            try:
                claim = await self._client.live.get(PVC, ref["name"], ref["namespace"])
            except NotFound:
                return True
        return uid_of(claim) != str(ref["uid"])

    async def _reclaim(self, volume: Object) -> None:
        if not is_ours(volume):
            self._events.event(volume, "Warning", "VolumeFailedDelete", "nobody here can delete this volume's data")
            return
        await self._client.delete(PV, name_of(volume), uid=uid_of(volume))

    async def _remove_directory(self, volume: Object) -> None:
        """Only directories this plane made, directly below its own volumes directory."""
        path = Path((volume["spec"].get("hostPath") or {}).get("path") or "/")
        ours = is_ours(volume) and path.parent == self._dir and path.name not in ("", ".", "..")
        if ours and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            await anyio.to_thread.run_sync(remove_tree, path)
            log.info("volume.removed", volume=name_of(volume), path=str(path))


def _claim_of_volume(volume: Object) -> Iterable[Request]:
    ref = (volume.get("spec") or {}).get("claimRef")
    return [Request(namespace=ref["namespace"], name=ref["name"])] if ref else []


def _claims_of_pod(pod: Object) -> Iterable[Request]:
    return [Request(namespace=namespace_of(pod), name=name) for name in claims_of(pod)]


def _volume_of_claim(claim: Object) -> Iterable[Request]:
    name = (claim.get("spec") or {}).get("volumeName")
    return [Request(namespace="", name=name)] if name else []


def _make_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(exist_ok=True)
    path.chmod(0o777)  # pods run as any user, as with the local-path provisioner; the parent keeps others out


def remove_tree(path: Path) -> None:
    """Remove a directory tree, whatever modes its owner gave its parts. Never follows a symbolic link."""
    if path.is_symlink() or not path.exists():
        return
    path.chmod(stat.S_IRWXU)
    for parent, directories, _ in os.walk(path):
        for name in directories:
            directory = os.path.join(parent, name)
            if not os.path.islink(directory):
                os.chmod(directory, stat.S_IRWXU)
    shutil.rmtree(path)
