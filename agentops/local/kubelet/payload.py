"""Files of a volume made from API objects, and writing them so that readers see all or nothing.

The layout is the Kubernetes kubelet's: a directory named after the time, a link `..data` to it that is
swapped by one rename, and a link per file through `..data`.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from agentops.local.kubelet.errors import VolumeNotReady

Object = Mapping[str, Any]
DEFAULT_MODE = 0o644


@frozen(slots=True)
class File:
    """A file to be written."""

    content: bytes
    mode: int = DEFAULT_MODE


def config_map_files(found: Object | None, source: Object, name: str, mode: int) -> dict[str, File]:
    """`source` is the volume's configMap part, for its items and `optional`. Raises VolumeNotReady."""
    data: dict[str, bytes] = {}
    if found is not None:
        data = {key: str(value).encode() for key, value in (found.get("data") or {}).items()}
        data |= {key: _decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return _select("configmap", found is not None, data, source, name, mode)


def secret_files(found: Object | None, source: Object, name: str, mode: int) -> dict[str, File]:
    """As `config_map_files`, of a Secret."""
    data = {} if found is None else {key: _decode(value) for key, value in (found.get("data") or {}).items()}
    return _select("secret", found is not None, data, source, name, mode)


def _select(
    kind: str, exists: bool, data: Mapping[str, bytes], source: Object, name: str, mode: int
) -> dict[str, File]:
    optional = bool(source.get("optional"))
    if not exists and not optional:
        raise VolumeNotReady(f'{kind} "{name}" not found')
    items = source.get("items")
    if not items:
        return {key: File(content, mode) for key, content in data.items()}
    files = {}
    for item in items:
        if item["key"] in data:
            files[item["path"]] = File(data[item["key"]], int(item.get("mode") or mode))
        elif not optional:
            raise VolumeNotReady(f'{kind} "{name}" has no key "{item["key"]}", which the volume\'s items name')
    return files


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        return b""


def write_payload(folder: Path, files: Mapping[str, File]) -> bool:
    """Make `folder` hold exactly `files`; False when it already did. Raises ValueError for a path that leaves it."""
    for path in files:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
            raise ValueError(f"{path!r} is not a path inside a volume")
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    data = folder / "..data"
    old = os.readlink(data) if data.is_symlink() else ""
    if old and _read(folder / old) == dict(files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    fresh.chmod(0o755)
    for path, file in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    swap = folder / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(fresh.name)
    swap.replace(data)
    _link(folder, {PurePosixPath(path).parts[0] for path in files})
    if old:
        shutil.rmtree(folder / old, ignore_errors=True)
    return True


def _read(folder: Path) -> dict[str, File] | None:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = File(path.read_bytes(), path.stat().st_mode & 0o777)
    return found if folder.is_dir() else None


def _link(folder: Path, names: Iterable[str]) -> None:
    wanted = set(names)
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
