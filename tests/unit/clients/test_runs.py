"""Following a run through a proxy that does not always answer as an API server does."""

import pytest
from support.scripted_transport import Feed, ScriptedTransport, ok

from agentops.api.kinds import AGENT_RUN
from agentops.clients.runs import RunClient
from agentops.kube.client import ApiClient

pytestmark = pytest.mark.anyio


def run(version, phase):
    metadata = {"name": "r", "namespace": "agents", "resourceVersion": str(version)}
    return {"kind": "AgentRun", "metadata": metadata, "status": {"phase": phase, "output": "hi"}}


async def test_a_watch_of_something_else_than_events_is_begun_anew():
    transport = ScriptedTransport()
    path = AGENT_RUN.path("agents")
    transport.on("GET", f"{path}/r", ok(run(1, "Running")), ok(run(2, "Running")))
    transport.on_watch(path, Feed().bytes(b"<html>\n"), Feed().event("MODIFIED", run(3, "Succeeded")))
    finished = await RunClient(ApiClient(transport), "agents").follow("r")
    assert (finished.phase, finished.output) == ("Succeeded", "hi")
    assert [watch.query["resourceVersion"] for watch, _ in transport.watches] == ["1", "2"]
