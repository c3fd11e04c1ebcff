"""A pod's volumes: directories below its state directory, and what is written into them.

emptyDir, configMap, secret, downwardAPI, projected (with ServiceAccount tokens) and claims. What comes from
the API is written again when it changes, tokens when 80 % of their life is over; subPath mounts keep what
they had when the container started, as on a cluster.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from agentops.local.kubelet.downward import field_value, resource_value
from agentops.local.kubelet.env import expand
from agentops.local.kubelet.errors import ContainerConfig, VolumeNotReady
from agentops.local.kubelet.payload import DEFAULT_MODE, File, config_map_files, secret_files, write_payload
from agentops.local.kubelet.sandbox import Mount
from agentops.values.clock import Clock

Object = Mapping[str, Any]

_REFRESH_AT = 0.8
_FROM_API = ("configMap", "secret", "downwardAPI", "projected")


@frozen(slots=True)
class Token:
    """A ServiceAccount token and how many seconds it is good for."""

    value: str
    lifetime_s: float


class VolumeSource(Protocol):
    """What volumes need from the API server; None for what does not exist."""

    async def secret(self, namespace: str, name: str) -> Object | None: ...

    async def config_map(self, namespace: str, name: str) -> Object | None: ...

    async def claim(self, namespace: str, name: str) -> Object | None: ...

    async def volume(self, name: str) -> Object | None: ...

    async def token(self, pod: Object, audience: str, expiration_s: int) -> Token: ...


class PodVolumes:
    """The volumes of one pod. `claims_dir` is the only place bound volumes may lie in."""

    def __init__(
        self,
        pod_dir: Path,
        claims_dir: Path,
        source: VolumeSource,
        clock: Clock,
        live: Mapping[str, str],
        allocatable: Mapping[str, str],
    ) -> None:
        self._dir = pod_dir / "volumes"
        self._copies = pod_dir / "subpaths"
        self._claims_dir = claims_dir
        self._source = source
        self._clock = clock
        self._live = live
        self._allocatable = allocatable
        self._paths: dict[str, Path] = {}
        self._read_only: set[str] = set()
        self._tokens: dict[tuple[str, str], tuple[float, File]] = {}

    async def prepare(self, pod: Object) -> None:
        """Make every volume. Raises VolumeNotReady naming the volume and what it lacks."""
        for volume in pod["spec"].get("volumes") or ():
            try:
                await self._prepare(pod, volume)
            except (ValueError, VolumeNotReady) as error:
                raise VolumeNotReady(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from error

    async def refresh(self, pod: Object) -> list[str]:
        """Write again what comes from the API; the names of volumes that could not be, with the reason."""
        failed = []
        for volume in pod["spec"].get("volumes") or ():
            if any(kind in volume for kind in _FROM_API) and volume["name"] in self._paths:
                try:
                    await self._prepare(pod, volume)
                except (ValueError, VolumeNotReady) as error:
                    failed.append(f"{volume['name']}: {error}")
        return failed

    def mounts(self, container: Object, env: Mapping[str, str]) -> tuple[Mount, ...]:
        """The container's mounts, sub-paths resolved. Raises ContainerConfig for one that leaves its volume."""
        return tuple(self._mount(container["name"], mount, env) for mount in container.get("volumeMounts") or ())

    def remove(self) -> None:
        """Delete what belongs to the pod alone. Claims stay."""
        shutil.rmtree(self._dir, ignore_errors=True)
        shutil.rmtree(self._copies, ignore_errors=True)

    async def _prepare(self, pod: Object, volume: Object) -> None:
        name = volume["name"]
        folder = self._dir / name
        if "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
        elif "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            folder = await self._claim(pod["metadata"].get("namespace", ""), claim["claimName"])
            if claim.get("readOnly"):
                self._read_only.add(name)
        elif any(kind in volume for kind in _FROM_API):
            write_payload(folder, await self._files(pod, volume))
            self._read_only.add(name)
        else:
            kinds = ", ".join(sorted(set(volume) - {"name"})) or "no source"
            raise VolumeNotReady(f"{kinds} is not supported by the process kubelet; use emptyDir or a claim")
        self._paths[name] = folder

    async def _claim(self, namespace: str, name: str) -> Path:
        claim = await self._source.claim(namespace, name)
        if claim is None:
            raise VolumeNotReady(f'persistentvolumeclaim "{name}" not found')
        bound = (claim.get("spec") or {}).get("volumeName")
        if not bound or (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeNotReady(f'persistentvolumeclaim "{name}" is not bound')
        volume = await self._source.volume(bound)
        if volume is None:
            raise VolumeNotReady(f'persistentvolume "{bound}" of claim "{name}" not found')
        return self._claim_path(bound, name, volume)

    def _claim_path(self, bound: str, name: str, volume: Object) -> Path:
        spec = volume.get("spec") or {}
        place = (spec.get("hostPath") or spec.get("local") or {}).get("path")
        if not place:
            raise VolumeNotReady(f'persistentvolume "{bound}" of claim "{name}" has neither hostPath nor local')
        path = Path(os.path.realpath(place))
        if not path.is_relative_to(os.path.realpath(self._claims_dir)):
            raise VolumeNotReady(f'persistentvolume "{bound}" lies outside the state directory {self._claims_dir}')
        path.mkdir(parents=True, exist_ok=True)
        return path

    async def _files(self, pod: Object, volume: Object) -> dict[str, File]:
        namespace = pod["metadata"].get("namespace", "")
        if "configMap" in volume:
            source = volume["configMap"]
            found = await self._source.config_map(namespace, source["name"])
            return config_map_files(found, source, source["name"], _mode(source))
        if "secret" in volume:
            source = volume["secret"]
            found = await self._source.secret(namespace, source["secretName"])
            return secret_files(found, source, source["secretName"], _mode(source))
        if "downwardAPI" in volume:
            return self._downward(pod, volume["downwardAPI"], _mode(volume["downwardAPI"]))
        files: dict[str, File] = {}
        projected = volume["projected"]
        for source in projected.get("sources") or ():
            files |= await self._projection(pod, volume["name"], source, _mode(projected))
        return files

    async def _projection(self, pod: Object, volume: str, source: Object, mode: int) -> dict[str, File]:
        namespace = pod["metadata"].get("namespace", "")
        if "configMap" in source:
            part = source["configMap"]
            return config_map_files(await self._source.config_map(namespace, part["name"]), part, part["name"], mode)
        if "secret" in source:
            part = source["secret"]
            return secret_files(await self._source.secret(namespace, part["name"]), part, part["name"], mode)
        if "downwardAPI" in source:
            return self._downward(pod, source["downwardAPI"], mode)
        if "serviceAccountToken" in source:
            part = source["serviceAccountToken"]
            return {part["path"]: await self._token(pod, volume, part, mode)}
        raise VolumeNotReady(f"projected source {', '.join(sorted(source))} is not supported by the process kubelet")

    async def _token(self, pod: Object, volume: str, part: Object, mode: int) -> File:
        key = (volume, part["path"])
        due, file = self._tokens.get(key, (0.0, File(b"")))
        if file.content and self._clock.boottime() < due:
            return file
        token = await self._source.token(pod, part.get("audience") or "", int(part.get("expirationSeconds") or 3600))
        file = File(token.value.encode(), mode)
        self._tokens[key] = (self._clock.boottime() + token.lifetime_s * _REFRESH_AT, file)
        return file

    def _downward(self, pod: Object, source: Object, mode: int) -> dict[str, File]:
        files = {}
        for item in source.get("items") or ():
            if "fieldRef" in item:
                text = field_value(pod, item["fieldRef"].get("fieldPath", ""), self._live)
            else:
                text = resource_value(pod, {}, item.get("resourceFieldRef") or {}, self._allocatable)
            files[item["path"]] = File(text.encode(), int(item.get("mode") or mode))
        return files

    def _mount(self, container: str, mount: Object, env: Mapping[str, str]) -> Mount:
        name = mount["name"]
        if name not in self._paths:
            raise ContainerConfig(f'volumeMounts names volume "{name}", which the pod does not have')
        folder = self._paths[name]
        read_only = bool(mount.get("readOnly")) or name in self._read_only
        sub_path = expand(mount["subPathExpr"], env) if mount.get("subPathExpr") else mount.get("subPath") or ""
        if not sub_path:
            return Mount(mount["mountPath"], folder, read_only)
        source = Path(os.path.realpath(folder / sub_path))
        if Path(sub_path).is_absolute() or not source.is_relative_to(os.path.realpath(folder)):
            raise ContainerConfig(f'subPath "{sub_path}" leaves volume "{name}"')
        if (folder / "..data").is_symlink():
            return Mount(mount["mountPath"], self._copy(container, mount, source), read_only)
        if not source.exists():
            source.mkdir(parents=True)
        return Mount(mount["mountPath"], source, read_only)

    def _copy(self, container: str, mount: Object, source: Path) -> Path:
        """What the path holds now: a sub-path of an API object does not follow its changes."""
        if not source.exists():
            raise ContainerConfig(f'subPath "{mount.get("subPath") or mount.get("subPathExpr")}" is not in the volume')
        flat = str(mount["mountPath"]).strip("/").replace("/", "~")
        target = self._copies / container / flat
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target


def _mode(source: Object) -> int:
    return int(source.get("defaultMode") or DEFAULT_MODE)
