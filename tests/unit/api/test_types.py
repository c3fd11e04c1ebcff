"""What every declaration of a field must keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args, get_origin

import attrs
import pytest

from agentops.api import kinds
from agentops.api.fields import FieldInfo, Quantity, fields_of, json_name
from agentops.api.objects import CLASSES, kind_of
from agentops.api.types import Agent, AgentRun, ObjectMeta


def every_field(cls: type, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for info in fields_of(cls):
        at = f"{path}.{info.json_name}" if path else info.json_name
        yield at, info
        inner = info.type
        while get_origin(inner) in (tuple, Mapping):
            inner = get_args(inner)[-1 if get_origin(inner) is Mapping else 0]
        if isinstance(inner, type) and attrs.has(inner) and inner is not ObjectMeta:
            yield from every_field(inner, at)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("service_url", "serviceURL"),
        ("base_url", "baseURL"),
        ("pod_uid", "podUID"),
        ("trace_id", "traceID"),
        ("storage_pvc", "storagePVC"),
        ("api_key_secret", "apiKeySecret"),
        ("use_responses_api", "useResponsesAPI"),
        ("azure_api_version", "azureAPIVersion"),
        ("oauth2_client_credentials", "oauth2ClientCredentials"),
        ("mcp_server", "mcpServer"),
        ("se_linux_options", "seLinuxOptions"),
        ("mode", "mode"),
    ],
)
def test_json_names_follow_from_the_attribute(attribute: str, expected: str) -> None:
    assert json_name(attribute) == expected


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_every_field_is_documented_with_a_sentence(cls: type) -> None:
    bad = [path for path, info in every_field(cls) if not info.doc.text.endswith(".")]
    assert not bad, f"these fields of {cls.__name__} have no description: {bad}"


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_every_list_map_and_string_of_a_spec_is_bounded(cls: type) -> None:
    """CEL cost is estimated from the bounds, and an object must fit into the store."""
    spec = next(info.type for info in fields_of(cls) if info.name == "spec")
    unbounded = []
    for path, info in every_field(spec, "spec"):
        about = info.doc
        origin = get_origin(info.type)
        leaf = get_args(info.type)[-1 if origin is Mapping else 0] if origin in (tuple, Mapping) else info.type
        if about.preserve_unknown:
            continue
        if origin is tuple and about.max_items is None:
            unbounded.append(f"{path} (items)")
        if origin is Mapping and about.max_properties is None:
            unbounded.append(f"{path} (properties)")
        if leaf is str and leaf is not Quantity and not about.enum and about.max_length is None:
            unbounded.append(f"{path} (length)")
    assert not unbounded


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_values_are_frozen_and_slotted(cls: type) -> None:
    for _, info in every_field(cls):
        if isinstance(info.type, type) and attrs.has(info.type):
            assert "__slots__" in info.type.__dict__, info.type
            assert info.type.__setattr__ is not object.__setattr__, f"{info.type} is not frozen"


def test_the_six_kinds_have_their_classes_and_short_names() -> None:
    assert {kind.kind for kind in kinds.ALL} == set(kinds.SHORT_NAMES)
    assert kind_of(Agent) is kinds.AGENT
    assert kinds.AGENT_RUN.path("agents", "hello-run", "status") == (
        "/apis/agents.agentops.io/v1alpha1/namespaces/agents/agentruns/hello-run/status"
    )
    assert kinds.kind_named("Provider") is kinds.PROVIDER
    with pytest.raises(KeyError, match="Agent, AgentRun"):
        kinds.kind_named("Pod")


def test_status_of_a_run_has_what_a_lost_dispatch_needs() -> None:
    status = next(info.type for info in fields_of(AgentRun) if info.name == "status")
    names = {info.json_name for info in fields_of(status)}
    assert {"podName", "podUID", "startTime", "admittedAt", "outputTruncated", "outputDigest", "outputRef"} <= names
