"""Decoding and encoding the six kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.strategies import instances

from agentops.api.objects import CLASSES, DecodeError, decode, encode, kind_of
from agentops.api.schema import apply_defaults, object_schema
from agentops.api.structural import structural_errors
from agentops.api.types import Agent, AgentRun, Provider

AGENT: dict[str, Any] = {
    "apiVersion": "agents.agentops.io/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "hello", "namespace": "agents", "managedFields": [{"manager": "kubectl"}]},
    "spec": {"mode": "daemon", "model": "local/smollm2", "providerRefs": [{"name": "local"}]},
}


def agent(**spec: Any) -> dict[str, Any]:
    return {**AGENT, "spec": {**AGENT["spec"], **spec}}


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same_and_fits_the_schema(cls: type, data: st.DataObject) -> None:
    value = data.draw(instances(cls))
    body = json.loads(json.dumps(encode(value)))
    assert decode(cls, body) == value
    schema = object_schema(cls)
    schema["properties"]["metadata"] = {}
    assert structural_errors(schema, body) == []
    assert decode(cls, apply_defaults(schema, body)) == value, "defaults of schema and types differ"


@pytest.mark.parametrize("cls", [Agent, AgentRun, Provider], ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_object_with_its_defaults_written_out_is_encoded_unchanged(cls: type, data: st.DataObject) -> None:
    value = data.draw(instances(cls))
    body = encode(value)
    assert apply_defaults(object_schema(cls), body) == body


def test_defaults_stand_in_the_value_where_the_object_is_silent() -> None:
    spec = decode(Agent, AGENT).spec
    assert (spec.timeout, spec.max_steps, spec.image_pull_policy) == ("10m", 100, "IfNotPresent")
    assert (spec.concurrency.max_runs, spec.concurrency.policy) == (1, "queue")
    assert spec.builtin_tools == () and spec.memory is None and spec.wait_for_dependencies
    run = decode(AgentRun, {"metadata": {}, "spec": {"agentRef": "hello", "prompt": "hi"}})
    assert run.spec.source == "user" and run.spec.ttl_seconds_after_finished is None


def test_unknown_keys_and_nulls_are_no_errors() -> None:
    decoded = decode(Agent, {**agent(futureField={"a": 1}, memory=None), "status": {"phase": "Running", "later": 1}})
    assert decoded.spec.memory is None
    assert decoded.status.phase == "Running"


def test_numbers_are_read_as_quantities_and_kept_as_text() -> None:
    spec = decode(Agent, agent(resources={"limits": {"cpu": 2, "memory": "1Gi"}})).spec
    assert spec.resources.limits == {"cpu": "2", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("obj", "path", "problem"),
    [
        ({"metadata": {}}, "spec", "is required"),
        (agent(model=3), "spec.model", "expected a string, got a number"),
        (agent(maxSteps="3"), "spec.maxSteps", "expected a whole number, got a string"),
        (agent(maxSteps=True), "spec.maxSteps", "expected a whole number, got a boolean"),
        (agent(maxSteps=1e20), "spec.maxSteps", "1e+20 has more than the 64 bits a number may have"),
        (agent(maxSteps=2**63), "spec.maxSteps", "9223372036854775808 has more than the 64 bits a number may have"),
        (agent(maxSteps=float("inf")), "spec.maxSteps", "expected a whole number, got a number"),
        (agent(maxSteps=1.5), "spec.maxSteps", "expected a whole number, got a number"),
        (agent(temperature="hot"), "spec.temperature", "expected a number, got a string"),
        (agent(enableQuestionTool="yes"), "spec.enableQuestionTool", "expected true or false, got a string"),
        (agent(providerRefs={"name": "local"}), "spec.providerRefs", "expected a list, got an object"),
        (agent(providerRefs=[{"name": "a"}, {}]), "spec.providerRefs[1].name", "is required"),
        (agent(env={"A": 1}), "spec.env.A", "expected a string, got a number"),
        (agent(storage={}), "spec.storage.size", "is required"),
        (agent(storage="1Gi"), "spec.storage", "expected an object, got a string"),
        (agent(fallbackModels=["a", None]), "spec.fallbackModels[1]", "expected a string, got null"),
        ({**AGENT, "kind": "Provider"}, "kind", "expected Agent, got 'Provider'"),
        ({**AGENT, "apiVersion": "apps/v1"}, "apiVersion", "expected group agents.agentops.io, got 'apps/v1'"),
    ],
)
def test_the_wrong_shape_is_refused_with_the_path_of_the_field(obj: Any, path: str, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Agent, obj)
    assert (caught.value.path, caught.value.problem) == (path, problem)


def test_json_names_that_look_like_other_attributes_do_not_leak_in() -> None:
    decoded = decode(Provider, {"metadata": {}, "spec": {"type": "openai", "endpoint": {"base_url": "http://x"}}})
    assert decoded.spec.endpoint.base_url is None


def test_encoding_leaves_out_what_absence_means() -> None:
    body = encode(decode(Provider, {"metadata": {"name": "local"}, "spec": {"type": "openai"}}))
    assert body == {
        "apiVersion": kind_of(Provider).api_version,
        "kind": "Provider",
        "metadata": {"name": "local"},
        "spec": {"type": "openai"},
    }
