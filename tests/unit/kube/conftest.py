"""Virtual time, and a transport that answers what the test says."""

import pytest
import trio.testing
from support.scripted_transport import ScriptedTransport

from agentops.values.clock import LoopClock


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def clock():
    return LoopClock()


@pytest.fixture
def transport():
    return ScriptedTransport()
