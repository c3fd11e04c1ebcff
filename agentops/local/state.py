"""The plane's state directory: where it is, who holds it, and what it remembers.

    VERSION          layout of this directory; a newer one is refused, never guessed at
    lock             held exclusively (flock) by the running plane, freed by the kernel however it dies
    plane.json       pid, URL and ranges of the running plane; only true while the lock is held
    settings.json    the port and the address slot, kept for the next start
    pki/             certificates and keys
    db.sqlite*       the API server's store
    volumes/         directories of PersistentVolumes
    pods/ resolve/   the kubelet's
    plane.log        what `up --detach` logs

Default: $XDG_STATE_HOME/agentops, else ~/.local/state/agentops.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from attrs import evolve, frozen

from agentops.local.pki import write_private
from agentops.net.errors import UsageError

LAYOUT = 1
HOST = "127.0.0.1"
"""The one address the API server listens on."""
SLOTS = 32
"""Pairs of /16 networks in 127.64.0.0/10: one for Services, one for pods."""
_LOCK_TRIES = 5


class StateError(UsageError):
    """The state directory cannot be used; the message is the one line a person needs."""


class PlaneRunning(StateError):
    """Another plane holds the state directory."""


@frozen(slots=True)
class Settings:
    """What survives a restart. Port 0 and slot -1 mean not chosen yet."""

    port: int = 0
    slot: int = -1


@frozen(slots=True)
class RunningPlane:
    """What `plane.json` says of the plane that holds the lock."""

    pid: int
    url: str
    started_at: str
    isolation: str = ""
    version: str = ""


@frozen(slots=True)
class Ranges:
    """The loopback networks of one slot, as CIDR texts."""

    slot: int

    @property
    def services(self) -> str:
        return f"127.{64 + 2 * self.slot}.0.0/16"

    @property
    def pods(self) -> str:
        return f"127.{65 + 2 * self.slot}.0.0/16"

    @property
    def api_service_ip(self) -> str:
        """ClusterIP of `default/kubernetes`."""
        return f"127.{64 + 2 * self.slot}.0.1"


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_STATE_HOME/agentops, else ~/.local/state/agentops. A relative XDG path counts as unset, as XDG asks."""
    base = environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".local" / "state"
    return root / "agentops"


class StateDir:
    """One state directory. Reading needs nothing; `acquire` makes this process its owner until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self._lock: IO[str] | None = None
        self._slot_lock: socket.socket | None = None

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def database(self) -> Path:
        return self.path / "db.sqlite"

    @property
    def volumes(self) -> Path:
        return self.path / "volumes"

    @property
    def log_file(self) -> Path:
        return self.path / "plane.log"

    @property
    def initialised(self) -> bool:
        return (self.path / "VERSION").exists()

    def prepare(self) -> None:
        """Make the directory and check its layout. Raises StateError in one line."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.path / f".write-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise StateError(f"state dir {self.path}: {reason}; choose another with --state-dir") from error
        self._check_layout()

    def _check_layout(self) -> None:
        marker = self.path / "VERSION"
        try:
            text = marker.read_text().strip()
        except FileNotFoundError:
            write_private(marker, f"{LAYOUT}\n".encode())
            return
        if text != str(LAYOUT):
            raise StateError(
                f"state dir {self.path} has layout {text or 'unknown'}, this version uses {LAYOUT}; "
                "use the agentops version that made it, or another --state-dir"
            )

    def acquire(self) -> None:
        """Become the owner. Raises PlaneRunning naming the pid and URL of the one who is."""
        self.prepare()
        lock = open(self.path / "lock", "a+")  # noqa: SIM115  held until release
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt == _LOCK_TRIES - 1:
                    lock.close()
                    raise self._taken() from error
                time.sleep(0.02)  # somebody may only be asking whether it is locked
        (self.path / "plane.json").unlink(missing_ok=True)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _taken(self) -> PlaneRunning:
        running = self._read_running()
        if running is None:
            return PlaneRunning(
                f"a plane is starting or stopping on state dir {self.path}: pid {self.holder()}; "
                "wait for it, or use another --state-dir"
            )
        return PlaneRunning(
            f"a plane is already running on state dir {self.path}: pid {running.pid}, {running.url}; "
            "stop it with `agentops local down` or use another --state-dir"
        )

    def release(self) -> None:
        """Give the directory back; safe to call twice."""
        if self._lock is not None:
            (self.path / "plane.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        if self._slot_lock is not None:
            self._slot_lock.close()
            self._slot_lock = None

    def holder(self) -> int | None:
        """Pid of the process that holds, or last held, the directory."""
        try:
            return int((self.path / "lock").read_text())
        except (OSError, ValueError):
            return None

    def locked(self) -> bool:
        """Whether some process holds the directory. Raises StateError when that cannot be told."""
        try:
            lock = open(self.path / "lock")  # noqa: SIM115  closed below
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StateError(f"state dir {self.path}: {error.strerror}; it belongs to another user") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def running(self) -> RunningPlane | None:
        """The plane that holds the directory and has announced itself."""
        return self._read_running() if self.locked() else None

    def _read_running(self) -> RunningPlane | None:
        data = _read_json(self.path / "plane.json")
        try:
            return RunningPlane(
                pid=int(data["pid"]),
                url=str(data["url"]),
                started_at=str(data["startedAt"]),
                isolation=str(data.get("isolation", "")),
                version=str(data.get("version", "")),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def announce(self, running: RunningPlane) -> None:
        """Tell `status`, `down` and a second `up` who holds the directory."""
        data = {
            "pid": running.pid,
            "url": running.url,
            "startedAt": running.started_at,
            "isolation": running.isolation,
            "version": running.version,
        }
        write_private(self.path / "plane.json", json.dumps(data).encode())

    def settings(self) -> Settings:
        data = _read_json(self.path / "settings.json")
        try:
            return Settings(port=int(data.get("port", 0)), slot=int(data.get("slot", -1)))
        except (TypeError, ValueError):
            return Settings()

    def remember(self, **changes: int) -> Settings:
        """Change some settings for good."""
        settings = evolve(self.settings(), **changes)
        write_private(self.path / "settings.json", json.dumps({"port": settings.port, "slot": settings.slot}).encode())
        return settings

    def acquire_ranges(self) -> Ranges:
        """The loopback networks of this state dir: the remembered ones, else the first free ones from a hashed start.

        A slot is held by an abstract socket, which has exactly the reach of the addresses it stands for: one
        network namespace, all users, gone with the process. Raises StateError when the remembered slot is taken
        (stored Services have addresses in it) or all are.
        """
        remembered = self.settings().slot
        if 0 <= remembered < SLOTS:
            held = _hold_slot(remembered)
            if held is None:
                ranges = Ranges(remembered)
                raise StateError(
                    f"the addresses {ranges.services} of state dir {self.path} are used by another plane; "
                    "stop that one first"
                )
            self._slot_lock = held
            return Ranges(remembered)
        first = int.from_bytes(hashlib.sha256(str(self.path).encode()).digest()[:4], "big")
        for offset in range(SLOTS):
            slot = (first + offset) % SLOTS
            held = _hold_slot(slot)
            if held is not None:
                self._slot_lock = held
                self.remember(slot=slot)
                return Ranges(slot)
        raise StateError(f"{SLOTS} planes are running on this machine, which is all that fit; stop one first")

    def context_name(self) -> str:
        """`agentops-local`; with the slot's number behind it for any directory but the default one."""
        if self.path == default_state_dir().absolute():
            return "agentops-local"
        return f"agentops-local-{max(0, self.settings().slot)}"


def _hold_slot(slot: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0agentops-local-slot-{slot}")
    except OSError:
        holder.close()
        return None
    return holder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
