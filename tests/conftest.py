"""Fixtures for every test.

Async tests run on asyncio unless they ask for `virtual_time`, which runs them on trio with a clock
that jumps to the next deadline as soon as everybody waits: hours of backoff take milliseconds.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
"""How long an example takes says how busy the machine is, not what is wrong."""


def pytest_collection_finish() -> None:
    """What was imported stays: the leak gate collects after every test, and need not go through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A role or benchmark run inside a test configures the process's logging; the next test must not notice."""
    root, ours = logging.getLogger(), logging.getLogger("agentops")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
