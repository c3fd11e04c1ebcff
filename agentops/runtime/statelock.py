"""The state dir belongs to one process at a time.

A Deployment makes the next pod as soon as the old one is told to stop, and both mount the same claim.
Without the lock the new process would fail the turn the old one is still finishing, and answer from a
conversation that lacks it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentops.runtime.errors import StoreFault
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.state")

LOCK_FILE = "lock"
RETRY_S = 0.2


@asynccontextmanager
async def exclusive(directory: Path, clock: Clock) -> AsyncIterator[None]:
    """Hold `directory`, waiting until whoever has it has ended; the kernel lets go of a killed process's lock.

    Raises StoreFault when the lock file cannot be opened. Where the file system has no locks, says so and goes on.
    """
    path = directory / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFault(
            f"state {path}: {error.strerror}; AGENT_DATA_DIR must be a directory this user can write to"
        ) from error
    try:
        if not _taken(descriptor, path):
            log.warning("state.held", path=str(path), meaning="an earlier process of this agent is still ending")
            while not _taken(descriptor, path):
                await clock.sleep(RETRY_S)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("state.unlockable", path=str(path), error=error.strerror)
    return True
