"""Virtual time for everything in this directory: an hour of backoff takes milliseconds."""

import random

import pytest
import trio.testing
from support.leaks import _loop_gate, leak_gate  # noqa: F401  no test may leave anything behind
from support.scripted_transport import ScriptedTransport

from agentops.values.clock import LoopClock


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def clock():
    return LoopClock()


@pytest.fixture
def rng():
    return random.Random(7)


@pytest.fixture
def transport():
    return ScriptedTransport()
