"""Tier C: no file system of its own. A pod's path P is `$AGENTOPS_ROOT/P`.

Each container has a directory `<pod>/rootfs/<container>` with a symbolic link per mount. Programs of this
project map paths themselves; for all others the literal mount paths in command, arguments and environment
are rewritten, which is a help and no isolation. What cannot be honoured is listed by `unenforced`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentops.local.kubelet.sandbox import Box
from agentops.local.kubelet.starting import Command
from agentops.net.resolve import RESOLVE_VAR

Object = Mapping[str, Any]

_TMP = "/tmp"


class PrefixSandbox:
    """The sandbox that works everywhere. `uid` is the user the plane runs as."""

    tier = "prefix"
    caveats = ("pods share the host's file system, user and network; cpu limits and read-only mounts are not enforced",)

    def __init__(self, uid: int | None = None) -> None:
        self._uid = os.getuid() if uid is None else uid

    def unenforced(self, pod: Object) -> list[str]:
        spec = pod.get("spec") or {}
        shared = spec.get("securityContext") or {}
        found = []
        for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
            own = {**shared, **(container.get("securityContext") or {})}
            name = container["name"]
            if own.get("runAsNonRoot") and self._uid == 0:
                found.append(f"runAsNonRoot ({name})")
            if own.get("runAsUser") not in (None, self._uid):
                found.append(f"runAsUser ({name})")
            if own.get("readOnlyRootFilesystem"):
                found.append(f"readOnlyRootFilesystem ({name})")
            if any(m.get("readOnly") for m in container.get("volumeMounts") or () if not _is_token(m)):
                found.append(f"volumeMounts.readOnly ({name})")
            if "cpu" in ((container.get("resources") or {}).get("limits") or {}):
                found.append(f"resources.limits.cpu ({name})")
        return found

    def root(self, box: Box) -> str:
        return str(box.pod_dir / "rootfs" / box.container)

    def host_path(self, box: Box, path: str) -> Path:
        root = self.root(box)
        return Path(path) if Path(path).is_relative_to(root) else Path(root) / path.lstrip("/")

    def build(self, box: Box) -> None:
        root = Path(self.root(box))
        # A container starts on a fresh layer. rmtree removes the links, never what they point to.
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True, mode=0o700)
        for mount in sorted(box.mounts, key=lambda m: m.path.count("/")):
            target = self.host_path(box, mount.path.rstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink():
                target.unlink()
            elif target.is_dir():
                # A mount point inside another volume: empty from an earlier start, else the data wins.
                target.rmdir()
            target.symlink_to(mount.source)
        self.host_path(box, _TMP).mkdir(exist_ok=True)
        log = self.host_path(box, box.termination_path)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()

    def command(self, box: Box, argv: Sequence[str], env: Mapping[str, str]) -> Command:
        rewrite = _Rewriter(self.root(box), box)
        words = argv if box.root_aware else [rewrite.text(word) for word in argv]
        return Command(tuple(words), self._env(box, env, rewrite), self._cwd(box))

    def exec_command(self, box: Box, argv: Sequence[str], env: Mapping[str, str], leader: int) -> Command:
        rewrite = _Rewriter(self.root(box), box)
        return Command(tuple(rewrite.text(word) for word in argv), self._env(box, env, rewrite), self._cwd(box))

    def _env(self, box: Box, env: Mapping[str, str], rewrite: _Rewriter) -> dict[str, str]:
        tmp = str(self.host_path(box, _TMP))
        change = rewrite.path if box.root_aware else rewrite.text
        changed = {name: change(value) for name, value in env.items()}
        if changed.get("HOME") == _TMP:
            changed["HOME"] = tmp
        names = {RESOLVE_VAR: str(box.names)} if box.names else {}
        return {"TMPDIR": tmp, **changed, **names, "AGENTOPS_ROOT": self.root(box)}

    def _cwd(self, box: Box) -> Path:
        path = self.host_path(box, box.working_dir) if box.working_dir else Path(self.root(box))
        if not path.exists():
            path.mkdir(parents=True)
        return path


class _Rewriter:
    """Puts the root before literal mount paths."""

    def __init__(self, root: str, box: Box) -> None:
        self._root = root
        self._literal = box.literal
        paths = {path.rstrip("/") for path in (box.termination_path, *(mount.path for mount in box.mounts))} - {""}
        self._paths = sorted(paths, key=len, reverse=True)
        # Not inside another path or word: neither /var/data, nor /database, nor file:///data.
        choices = "|".join(map(re.escape, self._paths))
        self._pattern = re.compile(rf"(?<![\w./-])(?:{choices})(?![\w.-])")

    def text(self, text: str) -> str:
        """Every literal mount path in it."""
        if text in self._literal or not self._paths:
            return text
        return self._pattern.sub(lambda match: self._root + match.group(0), text)

    def path(self, text: str) -> str:
        """The text itself, when it is a path at or below a mount."""
        if text not in self._literal and any(text == path or text.startswith(path + "/") for path in self._paths):
            return self._root + text
        return text


def _is_token(mount: Object) -> bool:
    return str(mount.get("mountPath", "")).startswith("/var/run/secrets/kubernetes.io/")
