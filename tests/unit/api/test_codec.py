import pytest

from agentops.api.codec import WireError, dumps, from_wire, loads, to_wire
from agentops.api.fep import Event
from agentops.api.memory import NewObservation, Session
from agentops.api.runs import RunRecord, TaskResult, Usage
from agentops.api.runtime_config import MemoryConfig, ProviderConfig, RuntimeConfig

CONFIG = RuntimeConfig(
    primary_model="local/smollm2",
    providers=(ProviderConfig(name="local", base_url="http://model:8000/v1"),),
    memory=MemoryConfig(server_url="http://memory:7437", project="hello"),
)


def test_config_json_uses_the_documented_keys_and_always_has_its_lists() -> None:
    wire = to_wire(CONFIG)
    assert wire["schemaVersion"] == 1
    assert wire["providers"] == [{"name": "local", "type": "openaicompat", "baseURL": "http://model:8000/v1"}]
    assert wire["builtinTools"] == [] and wire["tools"] == [] and wire["contextFiles"] == []
    assert wire["memory"]["serverURL"] == "http://memory:7437" and wire["memory"]["contextLimit"] == 5
    assert loads(RuntimeConfig, dumps(CONFIG)) == CONFIG


def test_a_newer_writer_may_add_keys() -> None:
    assert from_wire(ProviderConfig, {"name": "x", "later": 1}) == ProviderConfig(name="x")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not JSON"),
        (b'{"providers": [{"name": 5}]}', "providers[0].name"),
        (b'{"maxSteps": "many"}', "maxSteps"),
        (b'{"memory": {"project": "p"}}', "serverURL"),
    ],
)
def test_malformed_config_names_the_path(raw: bytes, says: str) -> None:
    with pytest.raises(WireError) as caught:
        loads(RuntimeConfig, raw)
    assert says in str(caught.value)


def test_runs_round_trip_with_milliseconds() -> None:
    record = from_wire(RunRecord, {"name": "r", "state": "running", "startedAt": "2026-11-21T01:02:03.456Z"})
    assert to_wire(record)["startedAt"] == "2026-11-21T01:02:03.456Z"
    assert from_wire(RunRecord, to_wire(record)) == record


def test_a_task_result_carries_its_marker() -> None:
    assert to_wire(TaskResult(success=True))["agentops.result"] == 1


def test_usage_adds_up() -> None:
    assert Usage(input_tokens=1, total_tokens=2) + Usage(input_tokens=3) == Usage(input_tokens=4, total_tokens=2)


def test_memory_speaks_snake_case() -> None:
    wire = to_wire(NewObservation(session_id="s", type="decision", title="t", content="c", project="p", topic_key="k"))
    assert wire["session_id"] == "s" and wire["topic_key"] == "k"
    assert from_wire(Session, {"id": "s", "project": "p", "started_at": "2026-11-21T00:00:00Z"}).message_count == 0


def test_an_event_is_one_flat_object() -> None:
    raw = {"type": "text_delta", "seq": 3, "timestamp": "2026-11-21T00:00:00.001Z", "session_id": "a", "delta": "hi"}
    assert Event.from_wire(raw).to_wire() == raw


@pytest.mark.parametrize("raw", [[], {}, {"type": 1}, {"type": "x"}, {"type": "x", "timestamp": "soon"}])
def test_what_is_not_an_event_is_refused(raw: object) -> None:
    with pytest.raises(WireError):
        Event.from_wire(raw)


@pytest.mark.parametrize("tags", ["ab", {"a": 1}, 5])
def test_only_a_list_is_a_list(tags: object) -> None:
    raw = {"session_id": "s", "type": "t", "title": "t", "content": "c", "project": "p", "tags": tags}
    with pytest.raises(WireError, match="tags"):
        from_wire(NewObservation, raw)
