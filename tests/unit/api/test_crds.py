"""The generated CRDs: facts users rely on, and what an API server would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agentops.api import crds, kinds
from agentops.cli.crds import crds as command

MANIFESTS = Path(__file__).parents[3] / "manifests" / "crd"
CRDS = {crd["spec"]["names"]["kind"]: crd for crd in crds.crds()}


def schema_of(kind: str) -> dict[str, Any]:
    return CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def at(kind: str, path: str) -> dict[str, Any]:
    node = schema_of(kind)
    for step in path.split("."):
        node = node["items"] if step == "[]" else node["properties"][step]
    return node


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[{key}]")


def test_manifests_hold_what_the_types_say() -> None:
    assert crds.drift(MANIFESTS) == [], "run `agentops crds --write manifests/crd`"


@pytest.mark.parametrize("kind", CRDS)
def test_names_scope_and_versions(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    assert CRDS[kind]["metadata"]["name"] == f"{spec['names']['plural']}.agents.agentops.io"
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["categories"] == ["agentops"]
    assert [version["name"] for version in spec["versions"] if version["storage"]] == ["v1alpha1"]
    assert all(version["subresources"] == {"status": {}} for version in spec["versions"])


def test_short_names_are_the_documented_ones() -> None:
    assert {kind: crd["spec"]["names"]["shortNames"] for kind, crd in CRDS.items()} == {
        "Agent": ["ag"],
        "AgentRun": ["ar"],
        "AgentTool": ["agtool"],
        "AgentResource": ["ares"],
        "Channel": ["ch"],
        "Provider": ["prov"],
    }


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("Agent", ["Mode", "Model", "Phase", "Age"]),
        ("AgentRun", ["Agent", "Source", "Phase", "Mode", "Intent", "Artifact", "Tokens", "Age"]),
        ("AgentTool", ["Source", "Category", "Phase", "URL", "Age"]),
        ("AgentResource", ["Kind", "Display Name", "Phase", "Age"]),
        ("Channel", ["Type", "Agent", "Phase", "Webhook", "Age"]),
        ("Provider", ["Type", "Phase", "Agents", "Age"]),
    ],
)
def test_kubectl_get_prints_the_documented_columns(kind: str, columns: list[str]) -> None:
    printed = CRDS[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [column["name"] for column in printed if not column.get("priority")] == columns


@pytest.mark.parametrize("kind", CRDS)
def test_printer_columns_point_at_fields_of_their_type(kind: str) -> None:
    types = {"integer": "integer", "string": "string"}
    for column in CRDS[kind]["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].lstrip(".")
        if path.startswith("metadata"):
            continue
        steps = re.sub(r"\[[^\]]*\]", ".[]", path)
        assert at(kind, steps)["type"] == types[column["type"]], column


@pytest.mark.parametrize("kind", CRDS)
def test_schemas_are_structural(kind: str) -> None:
    """Every specified node has a type (or is int-or-string), and combinators hold no structure."""
    for path, node in nodes(schema_of(kind)):
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node, path
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
            assert not {"anyOf", "oneOf", "allOf", "not"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node.get("type") == "array":
            assert "items" in node, path
        for name in node.get("required", ()):
            assert name in node["properties"], f"{path}: required {name} is no property"
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"]["required"] or "default" in node["items"]["properties"][key], path


@pytest.mark.parametrize("kind", CRDS)
def test_every_property_is_described(kind: str) -> None:
    for path, node in nodes(schema_of(kind)):
        for name, child in node.get("properties", {}).items():
            assert child.get("description") or name == "metadata", f"{path}.{name}"


@pytest.mark.parametrize("kind", CRDS)
def test_defaults_are_only_in_the_spec_and_fit_their_schema(kind: str) -> None:
    for path, node in nodes(schema_of(kind)):
        if "default" in node:
            assert path.startswith(".spec"), f"{path}: a status must say only what was seen"
            assert node["default"] in node.get("enum", [node["default"]]), path


@pytest.mark.parametrize("kind", CRDS)
def test_a_crd_is_small_enough_to_be_applied(kind: str) -> None:
    assert len(crds.to_yaml(CRDS[kind]).encode()) < crds.MAX_CRD_BYTES


@pytest.mark.parametrize("kind", CRDS)
def test_a_crd_is_valid_for_the_api_server(kind: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(CRDS[kind], validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [
        ("Agent", "spec.mode", {"type": "string", "enum": ["daemon", "task"]}),
        ("Agent", "spec.timeout", {"default": "10m"}),
        ("Agent", "spec.maxSteps", {"default": 100, "minimum": 1}),
        ("Agent", "spec.temperature", {"type": "number", "minimum": 0, "maximum": 2}),
        ("Agent", "spec.imagePullPolicy", {"default": "IfNotPresent", "enum": ["Always", "IfNotPresent", "Never"]}),
        ("Agent", "spec.providerRefs", {"minItems": 1, "x-kubernetes-list-type": "map"}),
        ("Agent", "spec.concurrency.policy", {"default": "queue", "enum": ["queue", "reject", "replace"]}),
        ("Agent", "spec.memory.contextLimit", {"default": 5, "minimum": 0, "maximum": 50}),
        ("Agent", "spec.delegation.maxFanOut", {"default": 5, "minimum": 1, "maximum": 10}),
        ("Agent", "spec.podTemplate.spec", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("AgentRun", "spec.source", {"default": "user", "enum": ["user", "channel", "agent", "schedule", "console"]}),
        ("AgentRun", "spec.outcome.intent", {"enum": ["change", "plan", "incident", "discovery", "noop"]}),
        ("AgentRun", "status.phase", {"enum": ["Pending", "Queued", "Running", "Succeeded", "Failed"]}),
        ("Provider", "spec.endpoint.oauth2ClientCredentials.tokenURL", {"minLength": 1}),
        ("Provider", "spec.defaults.anthropic.thinkingBudgetTokens", {"minimum": 1024, "format": "int64"}),
        ("AgentTool", "spec.mcpServer.port", {"default": 8080}),
        ("AgentTool", "spec.inline.content", {"maxLength": 4096}),
        ("Channel", "spec.replicas", {"default": 1, "minimum": 1}),
    ],
)
def test_schema_facts(kind: str, path: str, expected: dict[str, Any]) -> None:
    node = at(kind, path)
    assert {key: node.get(key) for key in expected} == expected


def test_required_fields_are_the_documented_ones() -> None:
    assert {kind: at(kind, "spec").get("required") for kind in CRDS} == {
        "Agent": ["mode", "model", "providerRefs"],
        "AgentRun": ["agentRef", "prompt"],
        "AgentTool": None,
        "AgentResource": ["kind", "displayName"],
        "Channel": ["type", "agentRef", "image"],
        "Provider": ["type"],
    }


def test_the_command_prints_all_six_documents_the_same_every_time() -> None:
    first, second = (CliRunner().invoke(command, []) for _ in range(2))
    assert first.exit_code == 0
    assert first.output == second.output
    assert [doc["metadata"]["name"] for doc in yaml.safe_load_all(first.output)] == [k.resource for k in kinds.ALL]


def test_check_names_the_file_that_differs(tmp_path: Path) -> None:
    directory = tmp_path / "crd"
    assert CliRunner().invoke(command, ["--write", str(directory)]).exit_code == 0
    assert CliRunner().invoke(command, ["--check", str(directory)]).exit_code == 0
    changed = directory / "agents.agentops.io_agents.yaml"
    changed.write_text(changed.read_text().replace("smol", "").replace("daemon", "demon"))
    (directory / "old.yaml").write_text("{}")
    result = CliRunner().invoke(command, ["--check", str(directory)])
    assert result.exit_code == 1
    assert "agents.agentops.io_agents.yaml: not what the types say" in result.stderr
    assert "old.yaml: not a CRD of ours" in result.stderr


def ruled(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that a CEL rule can reach: what carries one, and all below it; of the whole object what is named."""
    named = {name for rule in schema.get("x-kubernetes-validations", ()) for name in NAMED.findall(rule["rule"])}
    for name, child in schema.get("properties", {}).items():
        if name != "metadata":  # the API server itself bounds what of it a rule can see
            yield from _ruled(child, f".{name}", name in named)


NAMED = re.compile(r"\b(?:self|oldSelf)\.(\w+)")


def _ruled(schema: dict[str, Any], path: str, under: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    under = under or bool(schema.get("x-kubernetes-validations"))
    if under:
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _ruled(child, f"{path}.{name}", under)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _ruled(schema[key], f"{path}[{key}]", under)


def unbounded(schema: dict[str, Any]) -> list[str]:
    """What an API server would have to take as endless when it adds up the cost of the rules."""
    found = []
    for path, node in ruled(schema):
        limits = {"array": "maxItems", "string": "maxLength"}
        needed = limits.get(str(node.get("type")), "maxProperties" if "additionalProperties" in node else None)
        if needed and needed not in node and not node.get("enum") and node.get("format") != "date-time":
            found.append(f"{path} has no {needed}")
    return found


@pytest.mark.parametrize("kind", CRDS)
def test_everything_a_rule_can_reach_is_bounded(kind: str) -> None:
    assert unbounded(schema_of(kind)) == []


def test_the_walk_for_bounds_sees_what_is_missing() -> None:
    rule = [{"rule": "true"}]
    free = {"type": "array", "items": {"type": "string"}}
    inner = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rule,
                                                        "properties": {"list": free, "map": inner}},
                                               "status": free}}  # fmt: skip
    assert unbounded(schema) == [
        ".spec.list has no maxItems",
        ".spec.list[items] has no maxLength",
        ".spec.map has no maxProperties",
    ]
