"""Fixtures for every test.

Async tests run on asyncio unless they ask for `virtual_time`, which runs them on trio with a clock
that jumps to the next deadline as soon as everybody waits: hours of backoff take milliseconds.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio"
