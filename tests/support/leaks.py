"""Fails a test that leaves tasks, sockets or threads behind.

    from support.leaks import leak_gate  # in a conftest: autouse for the directory

What was there before a test may be there after it. Ends that are on their way get a moment.
Worker threads of anyio and of the event loop's executor are kept by their loop and are no leaks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import pytest

_PATIENCE_S = 1.0
_POOLED = ("AnyIO worker thread", "asyncio_", "Trio thread", "ThreadPoolExecutor", "OtelBatch", "OTel")


def sockets() -> dict[str, str]:
    """The process' open sockets: file descriptor and inode."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the listing's own descriptor
        if target.startswith("socket:"):
            found[target] = f"fd {fd} ({target})"
    return found


def threads() -> dict[str, str]:
    """Threads that somebody has started, pooled workers left out."""
    return {
        str(thread.ident): thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.name.startswith(_POOLED)
    }


def tasks() -> dict[str, str]:
    """Tasks of the running loop; those of anyio's pytest plugin come and go as it likes."""
    found = {}
    for info in anyio.get_running_tasks():
        what = getattr(info.coro, "__qualname__", "")
        if not what.startswith("TestRunner."):
            found[str(info.id)] = f"{info.name} ({what})"
    return found


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop; None on trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


Probe = Callable[[], dict[str, str]]
PROBES: dict[str, Probe] = {"socket": sockets, "thread": threads}


def left_over(probes: dict[str, Probe], before: dict[str, dict[str, str]]) -> list[str]:
    """What is there now and was not `before`, one text each."""
    return [
        f"{kind} {what}" for kind, probe in probes.items() for key, what in probe().items() if key not in before[kind]
    ]


def _complain(found: list[str]) -> None:
    if found:
        pytest.fail(f"the test leaves behind: {'; '.join(found)}", pytrace=False)


@pytest.fixture
async def _loop_gate(anyio_backend: object) -> AsyncIterator[None]:
    """The gate inside of the test's event loop, around all other fixtures of the test."""
    probes = {**PROBES, "task": tasks}
    if type(asyncio_loop()).__module__.startswith("uvloop"):
        del probes["socket"]  # it makes a pair of its own each time it is run, and pytest's plugin runs it many times
    before = {kind: probe() for kind, probe in probes.items()}
    yield
    gc.collect()
    found = left_over(probes, before)
    with anyio.move_on_after(_PATIENCE_S):
        while found:
            await anyio.sleep(0.01)
            found = left_over(probes, before)
    _complain(found)


@pytest.fixture(autouse=True)
def leak_gate(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around every test of the directory."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_loop_gate")
        yield
        return
    before = {kind: probe() for kind, probe in PROBES.items()}
    yield
    gc.collect()
    deadline = time.monotonic() + _PATIENCE_S
    found = left_over(PROBES, before)
    while found and time.monotonic() < deadline:
        time.sleep(0.01)
        found = left_over(PROBES, before)
    _complain(found)
