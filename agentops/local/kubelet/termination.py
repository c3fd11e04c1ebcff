"""The last words of a container: its termination log, or the end of its output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentops.local.kubelet.logs import entries_of, tail

MESSAGE_BYTES = 4096
_FALLBACK_LINES, _FALLBACK_BYTES = 80, 2048


def termination_message(container: Mapping[str, Any], log: Path, file: Path, exit_code: int) -> str:
    """At most 4096 bytes of `file`; the end of `log` when that is empty, the policy says so and the run failed."""
    try:
        with file.open("rb") as lines:
            message = lines.read(MESSAGE_BYTES)
    except OSError:
        message = b""
    if not message and exit_code != 0 and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        entries = tail(entries_of(log), _FALLBACK_LINES)
        message = b"".join(entry.text for entry in entries)[-_FALLBACK_BYTES:]
    return message.decode("utf-8", "replace")
