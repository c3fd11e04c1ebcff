"""CRDs: what is accepted, when it is served, and what happens to objects."""

from __future__ import annotations

import copy
import json
from typing import Any

import anyio
import pytest
from support.apiserver import CRDS, WIDGETS, Api, make_server, widget, widget_crd

pytestmark = pytest.mark.anyio


def causes(body: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c["reason"], c["message"], c["field"]) for c in body["details"]["causes"]]


def with_schema(change: dict[str, Any]) -> dict[str, Any]:
    """The CRD with `change` as the properties of spec."""
    crd = widget_crd()
    version = crd["spec"]["versions"][0]
    del version["selectableFields"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = {"type": "object", **change}
    return crd


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_a_crd_is_served_only_after_it_is_established(anyio_backend: object) -> None:
    server = make_server(crd_established_delay_s=0.05)
    api = Api(server)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        watch = await api.watch(CRDS)
        await api.post(CRDS, widget_crd())
        assert (await api.get(WIDGETS)).status == 404
        assert await watch.take(2) == [("ADDED", "widgets.test.example.com"), ("MODIFIED", "widgets.test.example.com")]
        assert (await api.get(WIDGETS)).status == 200
        status = (await api.get(f"{CRDS}/widgets.test.example.com")).body["status"]
        assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [
            ("NamesAccepted", "True", "NoConflicts"),
            ("Established", "True", "InitialNamesAccepted"),
        ]
        assert status["acceptedNames"]["listKind"] == "WidgetList"
        assert status["storedVersions"] == ["v1"]
        await watch.close()
        tasks.cancel_scope.cancel()
    server.close()


async def test_deleting_a_crd_deletes_its_objects_first(widgets: Api) -> None:
    held = widget("held")
    held["metadata"]["finalizers"] = ["x.io/f"]
    await widgets.post(WIDGETS, held)
    await widgets.post(WIDGETS, widget("free"))
    gone = await widgets.delete(f"{CRDS}/widgets.test.example.com")
    assert gone.body["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    widgets.server.custom.establish_now()
    listed = (await widgets.get(WIDGETS)).body["items"]
    assert [i["metadata"]["name"] for i in listed] == ["held"]
    await widgets.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": []}})
    widgets.server.custom.establish_now()
    assert (await widgets.get(f"{CRDS}/widgets.test.example.com")).status == 404
    assert (await widgets.get(WIDGETS)).body == b"404 page not found\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"properties": {"a": {"description": "no type"}}},
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Required value: must not be "
            "empty for "
            "specified object fields",
        ),
        ({"properties": {"a": {"type": "array"}}}, "properties[a].items: Required value: must be specified"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, "must be a valid regular expression"),
        ({"properties": {"a": {"type": "integer", "default": "x"}}}, 'properties[a].default: Invalid value: "string"'),
        (
            {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            "additionalProperties and properties are mutual exclusive",
        ),
        (
            {"properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.a ==="}]},
            "compilation failed",
        ),
        (
            {"properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.b == 'x'"}]},
            "undefined field 'b'",
        ),
        (
            {"properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "nosuch(self.a)"}]},
            "undeclared reference to 'nosuch'",
        ),
        (
            {"properties": {"l": {"type": "array", "x-kubernetes-list-type": "map",
                                  "x-kubernetes-list-map-keys": ["k"],
                                  "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}},
            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
    ],
)  # fmt: skip
async def test_schemas_that_are_not_structural_are_refused(api: Api, change: dict[str, Any], message: str) -> None:
    reply = await api.post(CRDS, with_schema(change))
    assert reply.status == 422, reply
    assert message in reply.message


async def test_a_crd_is_named_after_plural_and_group(api: Api) -> None:
    crd = widget_crd()
    crd["metadata"]["name"] = "other"
    reply = await api.post(CRDS, crd)
    assert 'metadata.name: Invalid value: "other": must be spec.names.plural+"."+spec.group' in reply.message


async def test_defaults_fill_present_parents_only(widgets: Api) -> None:
    reply = await widgets.post(WIDGETS, widget("a"))
    assert reply.body["spec"] == {"model": "gpt", "mode": "daemon"}
    null = await widgets.post(WIDGETS, widget("b", mode=None))
    assert null.body["spec"]["mode"] == "daemon"


async def test_free_form_parts_are_kept(widgets: Api) -> None:
    reply = await widgets.post(WIDGETS, widget("a", free={"x": {"y": [1]}}))
    assert reply.body["spec"]["free"] == {"x": {"y": [1]}}
    assert reply.warnings == ""


async def test_validation_messages_are_those_of_a_real_server(widgets: Api) -> None:
    reply = await widgets.post(WIDGETS, widget("a", model="x", mode="zzz", temp="hot", replicas=-1, port=1.5))
    assert reply.status == 422
    found = causes(reply.body)
    assert (
        "FieldValueNotSupported",
        'Unsupported value: "zzz": supported values: "daemon", "task"',
        "spec.mode",
    ) in found
    assert (
        "FieldValueInvalid",
        'Invalid value: "x": spec.model in body should be at least 2 chars long',
        "spec.model",
    ) in found
    assert any("spec.temp in body should match '^[0-9.]+$'" in m for _, m, _ in found)
    assert any("spec.replicas in body should be greater than or equal to 0" in m for _, m, _ in found)
    assert any('spec.port in body must be of type integer,string: "number"' in m for _, m, _ in found)
    assert found[-1][2] == "<nil>"
    assert "some validation rules were not checked" in found[-1][1]


async def test_required_and_types_are_checked(widgets: Api) -> None:
    body = widget("a")
    del body["spec"]
    missing = await widgets.post(WIDGETS, body)
    assert ("FieldValueRequired", "Required value", "spec") in causes(missing.body)
    wrong = await widgets.post(WIDGETS, widget("a", replicas="three"))
    assert (
        "FieldValueTypeInvalid",
        'Invalid value: "string": spec.replicas in body must be of type integer: "string"',
        "spec.replicas",
    ) in causes(wrong.body)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**20, 1e20])
@pytest.mark.parametrize("media", ["json", "yaml"])
async def test_an_integer_beyond_64_bits_is_none(widgets: Api, media: str, number: float) -> None:
    """Go's decoder makes a float64 of it, and no float64 beyond 2**53 passes for an integer."""
    body = json.dumps({**widget("a"), "spec": {**widget("a")["spec"], "replicas": "N"}}).replace('"N"', repr(number))
    headers = {"content-type": f"application/{media}"}
    wrong = await widgets.post(WIDGETS, body.encode(), **headers)
    assert (
        "FieldValueTypeInvalid",
        'Invalid value: "number": spec.replicas in body must be of type integer: "number"',
        "spec.replicas",
    ) in causes(wrong.body)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 1e10])
async def test_an_integer_beyond_its_32_bits_is_refused_in_the_words_of_a_real_server(api: Api, number: float) -> None:
    await api.post(CRDS, with_schema({"properties": {"n": {"type": "integer", "format": "int32"}}}))
    api.server.custom.establish_now()
    wrong = await api.post(WIDGETS, {**widget("a"), "spec": {"n": number}})
    text = "Checked value must be of type integer with format int32 in spec.n"
    assert wrong.message == f'Widget.test.example.com "a" is invalid: <nil>: Invalid value: "": {text}'
    assert (await api.post(WIDGETS, {**widget("a"), "spec": {"n": 2**31 - 1}})).status == 201


async def test_a_huge_number_in_a_free_form_part_is_kept_as_a_float(widgets: Api) -> None:
    body = json.dumps({**widget("a"), "spec": {**widget("a")["spec"], "free": {"x": "N"}}}).replace('"N"', str(10**20))
    made = await widgets.post(WIDGETS, body.encode(), **{"content-type": "application/yaml"})
    assert made.status == 201, made
    assert made.body["spec"]["free"] == {"x": 1e20}


async def test_keyed_lists_refuse_duplicates(widgets: Api) -> None:
    reply = await widgets.post(WIDGETS, widget("a", tools=[{"name": "a"}, {"name": "a"}]))
    assert ("FieldValueDuplicate", 'Duplicate value: {"name":"a"}', "spec.tools[1]") in causes(reply.body)


async def test_cel_rules_and_transition_rules_hold(widgets: Api) -> None:
    many = await widgets.post(WIDGETS, widget("a", tools=[{"name": n} for n in "abcd"]))
    assert many.message == 'Widget.test.example.com "a" is invalid: spec: Invalid value: at most 3 tools'
    await widgets.post(WIDGETS, widget("a"))
    changed = await widgets.patch(f"{WIDGETS}/a", {"spec": {"model": "other"}})
    assert changed.status == 422
    assert "model is immutable" in changed.message


async def test_parts_that_did_not_change_are_not_checked_again(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a", temp="12"))
    crd = (await widgets.get(f"{CRDS}/widgets.test.example.com")).body
    stricter = copy.deepcopy(crd)
    spec = stricter["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["temp"]["pattern"] = "^x$"
    assert (await widgets.put(f"{CRDS}/widgets.test.example.com", stricter)).status == 200
    kept = await widgets.patch(f"{WIDGETS}/a", {"spec": {"replicas": 2}})
    assert kept.status == 200, kept
    changed = await widgets.patch(f"{WIDGETS}/a", {"spec": {"temp": "13"}})
    assert changed.status == 422


async def test_a_new_default_shows_on_old_objects(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a"))
    crd = (await widgets.get(f"{CRDS}/widgets.test.example.com")).body
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["replicas"]["default"] = 7
    await widgets.put(f"{CRDS}/widgets.test.example.com", crd)
    assert (await widgets.get(f"{WIDGETS}/a")).body["spec"]["replicas"] == 7
    assert (await widgets.get(WIDGETS)).body["items"][0]["spec"]["replicas"] == 7


async def test_scale_reads_and_writes_the_replicas_path(widgets: Api) -> None:
    created = (await widgets.post(WIDGETS, widget("a", replicas=1))).body
    scale = (await widgets.get(f"{WIDGETS}/a/scale")).body
    assert (scale["kind"], scale["spec"], scale["status"]) == ("Scale", {"replicas": 1}, {"replicas": 0})
    assert scale["metadata"]["uid"] == created["metadata"]["uid"]
    reply = await widgets.patch(f"{WIDGETS}/a/scale", {"spec": {"replicas": 3}})
    assert reply.body["spec"]["replicas"] == 3
    live = (await widgets.get(f"{WIDGETS}/a")).body
    assert (live["spec"]["replicas"], live["metadata"]["generation"]) == (3, 2)
    stale = await widgets.put(f"{WIDGETS}/a/scale", {**scale, "spec": {"replicas": 4}})
    assert stale.status == 409


async def test_two_versions_serve_one_object(api: Api) -> None:
    crd = widget_crd()
    second = copy.deepcopy(crd["spec"]["versions"][0])
    second.update(name="v2", storage=False)
    crd["spec"]["versions"].append(second)
    await api.post(CRDS, crd)
    api.server.custom.establish_now()
    await api.post(WIDGETS, widget("a"))
    other = WIDGETS.replace("/v1/", "/v2/")
    reply = await api.get(f"{other}/a")
    assert reply.body["apiVersion"] == "test.example.com/v2"
    listed = await api.get(other)
    assert listed.body["items"][0]["apiVersion"] == "test.example.com/v2"
    changed = await api.patch(f"{other}/a", {"spec": {"replicas": 2}})
    assert changed.body["apiVersion"] == "test.example.com/v2"
    assert (await api.get(f"{WIDGETS}/a")).body["apiVersion"] == "test.example.com/v1"


async def test_without_a_status_subresource_status_is_an_ordinary_field(api: Api) -> None:
    crd = widget_crd()
    del crd["spec"]["versions"][0]["subresources"]
    await api.post(CRDS, crd)
    api.server.custom.establish_now()
    reply = await api.post(WIDGETS, {**widget("a"), "status": {"phase": "x"}})
    assert reply.body["status"] == {"phase": "x"}
    assert (await api.get(f"{WIDGETS}/a/status")).status == 404


async def test_established_crds_are_served_again_after_a_restart(tmp_path: Any) -> None:
    first = make_server(db_path=tmp_path / "db")
    api = Api(first)
    await api.post(CRDS, widget_crd())
    first.custom.establish_now()
    await api.post(WIDGETS, widget("a"))
    first.close()
    second = make_server(db_path=tmp_path / "db")
    reply = await Api(second).get(f"{WIDGETS}/a")
    assert reply.status == 200
    second.close()


async def test_rules_may_use_kubernetes_functions(api: Api) -> None:
    rules = [
        "self.items.isSorted()",
        "!has(self.size) || quantity(self.size).isLessThan(quantity('1Gi'))",
        "!has(self.at) || self.at < timestamp('2030-01-01T00:00:00Z')",
        "!has(self.__namespace__) || self.__namespace__.size() < 5",
        "self.?wait.orValue(duration('1s')) < duration('1h')",
    ]
    properties = {
        "items": {"type": "array", "items": {"type": "string"}},
        "size": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "namespace": {"type": "string"},
        "wait": {"type": "string", "format": "duration"},
    }
    crd = with_schema({"properties": properties, "x-kubernetes-validations": [{"rule": r} for r in rules]})
    assert (await api.post(CRDS, crd)).status == 201
    api.server.custom.establish_now()
    body = widget("a")
    body["spec"] = {"items": ["a", "b"], "size": "1Mi", "at": "2026-01-01T00:00:00Z", "namespace": "abc", "wait": "5m"}
    assert (await api.post(WIDGETS, body)).status == 201
    bad = {"items": ["b", "a"], "size": "2Gi", "at": "2031-01-01T00:00:00Z", "namespace": "abcdef", "wait": "2h"}
    reply = await api.post(WIDGETS, {**body, "metadata": {"name": "b"}, "spec": bad})
    assert len(reply.body["details"]["causes"]) == 5


@pytest.mark.parametrize(
    ("path", "good"),
    [
        (".a.b", True),
        (".a['b']", True),
        (".m['x']", True),
        (".m.x", True),
        (".c", False),
        ("a", False),
        (".a[0]", False),
    ],
)
async def test_the_field_path_of_a_rule_must_lead_to_a_field(api: Api, path: str, good: bool) -> None:
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    free = {"type": "object", "additionalProperties": {"type": "string"}}
    rule = {"rule": "false", "message": "never", "fieldPath": path}
    made = await api.post(
        CRDS, with_schema({"properties": {"a": inner, "m": free}, "x-kubernetes-validations": [rule]})
    )
    assert (made.status == 201) is good, made
    assert good or "x-kubernetes-validations[0].fieldPath: Invalid value" in made.message


async def test_what_is_wrong_with_the_whole_object_has_the_path_that_go_prints(api: Api) -> None:
    crd = widget_crd()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["x-kubernetes-validations"] = [{"rule": "self.metadata.name != 'a'", "message": "not a"}]
    await api.post(CRDS, crd)
    api.server.custom.establish_now()
    wrong = await api.post(WIDGETS, widget("a"))
    assert wrong.message == 'Widget.test.example.com "a" is invalid: <nil>: Invalid value: not a'


async def test_optional_old_self_runs_on_create_too(api: Api) -> None:
    rule = {"rule": "!oldSelf.hasValue() || oldSelf.value().n <= self.n", "optionalOldSelf": True, "message": "only up"}
    await api.post(CRDS, with_schema({"properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": [rule]}))
    api.server.custom.establish_now()
    body = widget("a")
    body["spec"] = {"n": 5}
    assert (await api.post(WIDGETS, body)).status == 201
    assert "only up" in (await api.patch(f"{WIDGETS}/a", {"spec": {"n": 4}})).message
    assert (await api.patch(f"{WIDGETS}/a", {"spec": {"n": 6}})).status == 200


@pytest.mark.parametrize(
    ("field", "rule", "told"),
    [
        ({"type": "integer"}, "self.foo < 5", "cannot be the operand of a select operation"),
        ({"type": "string"}, "self < 5", "no matching overload"),
        ({"type": "array", "items": {"type": "integer"}}, "self.exists(x, x > 'a')", "no matching overload"),
        ({"type": "integer"}, "self <= 5.5", ""),
        ({"type": "number"}, "self <= 5", ""),
        ({"type": "string", "format": "duration"}, "self < duration('1h')", ""),
        ({"type": "string"}, "self == oldSelf || self in ['a']", ""),
    ],
)
async def test_a_rule_that_does_not_fit_its_fields_type_is_refused_with_the_crd(
    api: Api, field: dict[str, Any], rule: str, told: str
) -> None:
    """A cluster type-checks rules when the CRD is created; a mistake found at the first write is found too late."""
    crd = widget_crd()
    version = crd["spec"]["versions"][0]
    field["x-kubernetes-validations"] = [{"rule": rule}]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] = field
    reply = await api.post(CRDS, crd)
    assert reply.status == (422 if told else 201), reply.message
    assert told in str(reply.body)


async def test_an_embedded_resource_says_what_it_is(api: Api) -> None:
    crd = widget_crd()
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["template"] = {
        "type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True,
    }  # fmt: skip
    assert (await api.post(CRDS, crd)).status == 201
    api.server.custom.establish_now()
    reply = await api.post(WIDGETS, widget("a", template={"kind": "Pod"}))
    assert (reply.status, "spec.template.apiVersion: Required value: must not be empty" in reply.message) == (422, True)
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}}
    assert (await api.post(WIDGETS, widget("a", template=whole))).body["spec"]["template"] == whole


async def test_a_rule_that_costs_too_much_is_a_reason_and_no_fault_of_the_server(api: Api) -> None:
    rules = [
        {"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c != 'zz')))"},
        {"rule": "self.s == '' || !self.s.matches(self.s)"},
    ]
    strings = {"type": "array", "items": {"type": "string"}, "default": []}
    properties = {"l": strings, "s": {"type": "string", "default": ""}}
    await api.post(CRDS, with_schema({"properties": properties, "x-kubernetes-validations": rules}))
    api.server.custom.establish_now()
    for spec in ({"l": ["x"] * 50}, {"s": "a" * 50_000}):
        reply = await api.post(WIDGETS, {**widget("a"), "spec": spec})
        assert (reply.status, "call cost exceeds limit" in reply.message) == (422, True), reply
    assert (await api.post(WIDGETS, {**widget("a"), "spec": {"l": ["x"] * 9, "s": "a(b"}})).status == 422
    assert (await api.post(WIDGETS, {**widget("a"), "spec": {"l": ["x"] * 9, "s": "matches('a')"}})).status == 201


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("self.free.immutable == 'x'", "no such key: immutable evaluating rule: self.free.immutable == 'x'"),
        ("self.args[3] == 'x'", "index out of bounds: 3 evaluating rule: self.args[3] == 'x'"),
        ("1 / self.replicas > 0", "division by zero evaluating rule: 1 / self.replicas > 0"),
        ("self.port > 'a'", "'no such overload': call arguments did not match a supported operator, function or macro"),
    ],
)
async def test_an_error_inside_a_rule_reads_as_on_a_cluster(api: Api, rule: str, told: str) -> None:
    crd = widget_crd()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    schema["x-kubernetes-validations"] = [{"rule": rule, "messageExpression": "self.free.nothing"}]
    assert (await api.post(CRDS, crd)).status == 201
    api.server.custom.establish_now()
    reply = await api.post(WIDGETS, widget("a", free={}, args=[], replicas=0, port=1))
    assert reply.status == 422
    assert told in reply.message


async def test_a_message_expression_that_fails_leaves_the_message(api: Api) -> None:
    rule = {"rule": "false", "message": "never", "messageExpression": "self.free.nothing"}
    crd = widget_crd()
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = [rule]
    await api.post(CRDS, crd)
    api.server.custom.establish_now()
    reply = await api.post(WIDGETS, widget("a", free={}))
    assert reply.message.endswith("never")


async def test_nothing_is_created_while_the_crd_goes(widgets: Api) -> None:
    api = widgets
    await api.post(WIDGETS, {**widget("held"), "metadata": {"name": "held", "finalizers": ["example.com/hold"]}})
    await api.delete(f"{CRDS}/widgets.test.example.com")
    api.server.custom.establish_now()
    refused = await api.post(WIDGETS, widget("late"))
    assert (refused.status, refused.reason) == (405, "MethodNotAllowed")
    assert refused.message == "create not allowed while custom resource definition is terminating"
    crd = (await api.get(f"{CRDS}/widgets.test.example.com")).body
    terminating = next(c for c in crd["status"]["conditions"] if c["type"] == "Terminating")
    assert (terminating["status"], terminating["reason"]) == ("True", "InstanceDeletionInProgress")
    assert terminating["message"] == "CustomResource deletion is in progress"
    verbs = (await api.get("/apis/test.example.com/v1")).body["resources"][0]["verbs"]
    assert verbs == ["delete", "deletecollection", "get", "list", "watch"]
    assert (await api.get(f"{WIDGETS}/held")).body["metadata"]["deletionTimestamp"]
    assert (await api.patch(f"{WIDGETS}/held", {"metadata": {"finalizers": None}})).status == 200
    api.server.custom.establish_now()
    assert (await api.get(f"{CRDS}/widgets.test.example.com")).status == 404


def two_versions() -> dict[str, Any]:
    """v1 stores, v1beta1 did once."""
    crd = widget_crd()
    (version,) = crd["spec"]["versions"]
    crd["spec"]["versions"] = [version, {**version, "name": "v1beta1", "storage": False}]
    return crd


async def test_a_version_that_was_stored_stays_until_nothing_is_stored_in_it(api: Api) -> None:
    at = f"{CRDS}/widgets.test.example.com"
    first = two_versions()
    for version, stores in zip(first["spec"]["versions"], (False, True), strict=True):
        version["storage"] = stores
    await api.post(CRDS, first)
    api.server.custom.establish_now()
    second = (await api.get(at)).body
    second["spec"]["versions"] = two_versions()["spec"]["versions"]
    assert (await api.put(at, second)).body["status"]["storedVersions"] == ["v1beta1", "v1"]
    only = [{"op": "remove", "path": "/spec/versions/1"}]
    refused = await api.patch(at, only, "json")
    assert refused.status == 422
    assert refused.message.endswith(
        'is invalid: status.storedVersions[0]: Invalid value: "v1beta1": missing from spec.versions; v1beta1 was '
        "previously a storage version, and must remain in spec.versions until a storage migration ensures no data "
        "remains persisted in v1beta1 and removes v1beta1 from status.storedVersions"
    )
    wrong = await api.patch(f"{at}/status", {"status": {"storedVersions": ["v1beta1"]}})
    assert (wrong.status, "must have the storage version v1" in wrong.message) == (422, True)
    none = await api.patch(f"{at}/status", {"status": {"storedVersions": []}})
    assert (none.status, "must have at least one stored version" in none.message) == (422, True)
    assert (await api.patch(f"{at}/status", {"status": {"storedVersions": ["v1"]}})).status == 200
    assert (await api.patch(at, only, "json")).status == 200


async def test_a_deprecated_version_warns_on_every_request(api: Api) -> None:
    crd = two_versions()
    crd["spec"]["versions"][1]["deprecated"] = True
    await api.post(CRDS, crd)
    api.server.custom.establish_now()
    old = WIDGETS.replace("/v1/", "/v1beta1/")
    told = '299 - "test.example.com/v1beta1 Widget is deprecated; use test.example.com/v1 Widget"'
    assert (await api.get(old)).warnings == told
    assert (await api.get(f"{old}/nobody")).warnings == told
    made = await api.post(old, {**widget("w"), "apiVersion": "test.example.com/v1beta1"})
    assert (made.status, made.warnings) == (201, told)
    assert (await api.get(WIDGETS)).warnings == ""
    crd = (await api.get(f"{CRDS}/widgets.test.example.com")).body
    crd["spec"]["versions"][1]["deprecationWarning"] = "v1beta1 goes in spring"
    await api.put(f"{CRDS}/widgets.test.example.com", crd)
    assert (await api.get(old)).warnings == '299 - "v1beta1 goes in spring"'


async def test_endpoints_are_deprecated(api: Api) -> None:
    reply = await api.get("/api/v1/namespaces/default/endpoints")
    assert reply.warnings == '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'


def with_version(**changes: Any) -> dict[str, Any]:
    crd = widget_crd()
    crd["spec"]["versions"][0].update(changes)
    return crd


def column(**changes: str) -> dict[str, Any]:
    return with_version(
        additionalPrinterColumns=[{"name": "A", "type": "string", "jsonPath": ".spec.model", **changes}]
    )


def rule_on_items(list_type: str, rule: str = "self == oldSelf") -> dict[str, Any]:
    item = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "x-kubernetes-validations": [{"rule": rule}]}},
    }
    listed: dict[str, Any] = {"type": "array", "items": item, "x-kubernetes-list-type": list_type}
    if list_type == "map":
        listed["x-kubernetes-list-map-keys"] = ["name"]
    return with_schema({"properties": {"list": listed, "mode": {"type": "string"}}})


SELECTABLE = "spec.selectableFields[0].jsonPath: Invalid value: "
SPEC = "spec.validation.openAPIV3Schema.properties[spec]"


@pytest.mark.parametrize(
    ("crd", "told"),
    [
        (column(type="text"), 'additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date'),
        (column(jsonPath="spec.model"), '[0].JSONPath: Invalid value: "spec.model": must be a simple json path'),
        (column(format="big"), 'additionalPrinterColumns[0].format: Invalid value: "big": must be one of byte,date'),
        (column(name=""), "additionalPrinterColumns[0].name: Required value"),
        (with_version(selectableFields=[{"jsonPath": ".spec.nope"}]), f'{SELECTABLE}".spec.nope": is an invalid path'),
        (with_version(selectableFields=[{"jsonPath": "spec.mode"}]), f'{SELECTABLE}"spec.mode": is an invalid path: '),
        (with_version(selectableFields=[{"jsonPath": ".spec.args"}]), "must point to a field of type string"),
        (with_version(selectableFields=[{"jsonPath": ".metadata.name"}]), "must not point to fields in metadata"),
        (with_version(selectableFields=[{"jsonPath": ".spec.mode"}] * 2), 'Duplicate value: ".spec.mode"'),
        (with_schema({"properties": {"mode": {"type": "string"}}, "x-kubernetes-preserve-unknown-fields": False}),
         f"{SPEC}.x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"),
        (rule_on_items("atomic"), "oldSelf cannot be used on the uncorrelatable portion of the schema within "
                                  f"{SPEC}.properties[list]"),
        (rule_on_items("set"), "oldSelf cannot be used on the uncorrelatable portion of the schema"),
        (rule_on_items("map"), ""),
        (rule_on_items("atomic", "self != ''"), ""),
    ],
)  # fmt: skip
async def test_a_crd_a_cluster_refuses_is_refused(api: Api, crd: dict[str, Any], told: str) -> None:
    reply = await api.post(CRDS, crd)
    assert reply.status == (422 if told else 201), reply.message
    assert told in str(reply.body)


@pytest.mark.parametrize(
    ("approval", "told"),
    [
        ("", "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval"),
        ("soon", 'with either a URL or a reason starting with "unapproved"'),
        ("unapproved, for a test", ""),
        ("https://github.com/kubernetes/enhancements/pull/1", ""),
    ],
)
@pytest.mark.parametrize("group", ["widgets.k8s.io", "x.kubernetes.io"])
async def test_a_group_of_kubernetes_itself_needs_an_approval(api: Api, group: str, approval: str, told: str) -> None:
    crd = widget_crd(group=group)
    crd["metadata"] = {"name": f"widgets.{group}"}
    if approval:
        crd["metadata"]["annotations"] = {"api-approved.kubernetes.io": approval}
    reply = await api.post(CRDS, crd)
    assert reply.status == (422 if told else 201), reply.message
    assert told in reply.message


async def test_a_finalizer_of_nobody_in_particular_warns_when_it_is_added(widgets: Api) -> None:
    body = widget("a")
    body["metadata"]["finalizers"] = ["hold", "example.com/hold"]
    told = (
        '299 - "metadata.finalizers: \\"hold\\": prefer a domain-qualified finalizer name including a path (/) '
        'to avoid accidental conflicts with other finalizer writers"'
    )
    assert (await widgets.post(WIDGETS, body)).warnings == told
    assert (await widgets.patch(f"{WIDGETS}/a", {"spec": {"replicas": 2}})).warnings == ""
    added = {"metadata": {"finalizers": ["hold", "orphan", "keep"]}}
    assert (await widgets.patch(f"{WIDGETS}/a", added)).warnings == told.replace("hold", "keep")
