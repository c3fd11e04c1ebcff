"""The last words of a container: its termination log, or the end of its output."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentops.local.kubelet.logs import last_entries

MESSAGE_BYTES = 4096
_FALLBACK_LINES, _FALLBACK_BYTES = 80, 2048


def termination_message(container: Mapping[str, Any], log: Path, file: Path, exit_code: int) -> str:
    """At most 4096 bytes of `file`; the end of `log` when that is empty, the policy says so and the run failed."""
    message = _beginning(file)
    if not message and exit_code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        message = b"".join(entry.text for entry in last_entries(log, _FALLBACK_LINES))[-_FALLBACK_BYTES:]
    return message.decode("utf-8", "replace")


def _beginning(file: Path) -> bytes:
    """Nothing of what is no file: the container may have put a link to somebody else's, or a pipe, in its place."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(fd, "rb") as opened:
        return opened.read(MESSAGE_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
