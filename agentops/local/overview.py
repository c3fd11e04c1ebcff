"""What `status` and `down` know of a plane from outside: the state directory, and a few plain HTTPS requests.

Only the standard library, so that `status` answers at once.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from attrs import frozen

from agentops.local.state import RunningPlane, StateDir
from agentops.values.clock import parse_rfc3339

_COUNTED = (
    ("namespaces", "/api/v1/namespaces"),
    ("pods", "/api/v1/pods"),
    ("deployments", "/apis/apps/v1/deployments"),
    ("jobs", "/apis/batch/v1/jobs"),
    ("crds", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
)


@frozen(slots=True)
class Overview:
    """A running plane as seen from outside. `problem` is empty when its API answers."""

    plane: RunningPlane
    uptime_s: float
    counts: dict[str, int]
    problem: str = ""


def look(state: StateDir, *, now: datetime | None = None) -> Overview | None:
    """The plane that runs on `state`; `None` when none does."""
    plane = state.running()
    if plane is None:
        return None
    uptime_s = ((now or datetime.now(UTC)) - parse_rfc3339(plane.started_at)).total_seconds()
    try:
        return Overview(plane, uptime_s, _counts(state, plane.url))
    except (OSError, ssl.SSLError, http.client.HTTPException, ValueError) as error:
        return Overview(plane, uptime_s, {}, f"the API server does not answer: {error}")


def _counts(state: StateDir, url: str) -> dict[str, int]:
    context = ssl.create_default_context(cadata=(state.pki / "ca.crt").read_text())
    context.load_cert_chain(state.pki / "admin.crt", state.pki / "admin.key")
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=5, context=context)
    try:
        counts = {}
        for name, path in _COUNTED:
            connection.request("GET", f"{path}?limit=1", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200:
                raise ValueError(str(body.get("message") or f"HTTP {answer.status}"))
            counts[name] = len(body["items"]) + int((body.get("metadata") or {}).get("remainingItemCount") or 0)
        return counts
    finally:
        connection.close()


def stop_plane(state: StateDir, *, timeout_s: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> int | None:
    """Tell the plane on `state` to stop and wait until it and every process of its pods is gone.

    Its pid, or `None` when none runs. Raises TimeoutError when it takes longer than `timeout_s`.
    """
    from agentops.local.kubelet.strays import end_leftovers

    pid = state.holder() if state.locked() else None
    if pid is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it ended by itself meanwhile
        deadline = time.monotonic() + timeout_s
        while state.locked() or is_alive(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the plane (pid {pid}) is still running {timeout_s:g} s after SIGTERM")
            sleep(0.05)
    end_leftovers(state.path / "pods")
    return pid


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that its parent has not collected does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except FileNotFoundError:
        return False
