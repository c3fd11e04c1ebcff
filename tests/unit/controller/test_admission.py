"""Admission reviews, without sockets."""

import base64

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.controller.admission import (
    AdmissionRequest,
    BadReview,
    Denied,
    answer,
    mutate,
    parse_review,
    patch_between,
    validate,
)
from agentops.kube.patches import json_patch

pytestmark = pytest.mark.anyio

WIDGET = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1, "new": {}}}


def body(version="admission.k8s.io/v1", **request):
    sent = {"uid": "u-1", "operation": "CREATE", "object": WIDGET, **request}
    return orjson.dumps({"apiVersion": version, "kind": "AdmissionReview", "request": sent})


async def ask(data, respond, timeout_s=10.0):
    review, broke = await answer(parse_review(data), respond, timeout_s)
    return review["response"], broke, review


async def mutated(*mutators, **request):
    response, _, _ = await ask(body(**request), lambda r: mutate(r, mutators))
    return response


async def validated(*validators, **request):
    response, _, _ = await ask(body(**request), lambda r: validate(r, validators))
    return response


@pytest.mark.parametrize("version", ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"])
@pytest.mark.guarantee("WH3")
async def test_the_answer_has_the_reviews_version_and_uid(version):
    async def allow(obj, request):
        return None

    response, broke, review = await ask(body(version), lambda r: validate(r, [allow]))
    assert (review["apiVersion"], review["kind"]) == (version, "AdmissionReview")
    assert response == {"uid": "u-1", "allowed": True}
    assert not broke


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        orjson.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v2", "request": {"uid": "1"}}),
        orjson.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {}}),
        orjson.dumps({"kind": "Pod", "apiVersion": "v1"}),
    ],
)
def test_what_is_no_review_is_a_bad_request(data):
    with pytest.raises(BadReview) as caught:
        parse_review(data)
    assert caught.value.code == 400


@pytest.mark.guarantee("WH4")
async def test_a_mutation_is_a_patch_that_keeps_fields_nobody_knows():
    async def default(obj, request):
        obj["spec"].setdefault("colour", "red")
        obj["metadata"].setdefault("labels", {})["a/b~c"] = "x"
        return ["colour was not set"]

    response = await mutated(default)
    assert response["patchType"] == "JSONPatch"
    operations = orjson.loads(base64.b64decode(response["patch"]))
    result = json_patch(WIDGET, operations)
    assert result["spec"] == {"size": 1, "new": {}, "colour": "red"}
    assert result["metadata"]["labels"] == {"a/b~c": "x"}
    assert all(op["op"] == "add" for op in operations), "the rest of the object is not touched"
    assert response["warnings"] == ["colour was not set"]


@pytest.mark.guarantee("WH4")
async def test_no_change_is_no_patch():
    async def nothing(obj, request):
        obj["spec"] = dict(obj["spec"])

    response = await mutated(nothing)
    assert "patch" not in response
    assert "patchType" not in response


async def test_mutators_see_what_the_one_before_did():
    async def first(obj, request):
        obj["spec"]["size"] = 2

    async def second(obj, request):
        obj["spec"]["size"] *= 10

    operations = orjson.loads(base64.b64decode((await mutated(first, second))["patch"]))
    assert operations == [{"op": "replace", "path": "/spec/size", "value": 20}]


@pytest.mark.guarantee("WH5")
async def test_a_delete_is_not_mutated_and_validated_with_the_old_object():
    seen = []

    async def look(obj, request):
        seen.append((obj["metadata"]["name"], request.object, request.operation))

    assert (await mutated(look, operation="DELETE", object=None, oldObject=WIDGET))["allowed"]
    assert seen == []
    await validated(look, operation="DELETE", object=None, oldObject=WIDGET)
    assert seen == [("w", None, "DELETE")]


@pytest.mark.guarantee("WH5")
async def test_a_refusal_is_403_with_its_reason_and_causes():
    async def refuse(obj, request):
        raise Denied("size must be even", causes=[{"field": "spec.size", "message": "1 is odd"}])

    response = await validated(refuse)
    assert not response["allowed"]
    assert response["uid"] == "u-1"
    assert response["status"] == {
        "code": 403,
        "message": "size must be even",
        "reason": "Forbidden",
        "details": {"causes": [{"field": "spec.size", "message": "1 is odd"}]},
    }


@pytest.mark.guarantee("WH5")
async def test_a_broken_handler_is_500_with_the_uid():
    async def broken(obj, request):
        raise KeyError("spec")

    response, broke, _ = await ask(body(), lambda r: validate(r, [broken]))
    assert broke
    assert response["uid"] == "u-1"
    assert response["status"]["code"] == 500
    assert "KeyError" in response["status"]["message"]


@pytest.mark.guarantee("WH6")
async def test_a_handler_that_takes_too_long_is_cut_off():
    async def slow(obj, request):
        await anyio.sleep(60)

    before = anyio.current_time()
    response, broke, _ = await ask(body(), lambda r: validate(r, [slow]), timeout_s=3)
    assert anyio.current_time() - before == pytest.approx(3)
    assert response["status"]["code"] == 504
    assert not broke


@pytest.mark.guarantee("WH6")
async def test_a_validator_cannot_change_what_the_next_one_sees():
    async def meddle(obj, request):
        obj["spec"]["size"] = 99

    async def look(obj, request):
        assert obj["spec"]["size"] == 1

    response = await validated(meddle, look)
    assert response["allowed"]
    assert "patch" not in response


def test_the_request_carries_what_the_api_server_said():
    sent = body(
        operation="UPDATE",
        dryRun=True,
        oldObject=WIDGET,
        namespace="ns",
        name="w",
        subResource="status",
        userInfo={"username": "eve"},
        kind={"group": "example.com", "version": "v1", "kind": "Widget"},
    )
    request = parse_review(sent).request
    assert isinstance(request, AdmissionRequest)
    assert (request.dry_run, request.subresource, request.namespace, request.name) == (True, "status", "ns", "w")
    assert request.user["username"] == "eve"
    assert request.old_object == WIDGET


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "~/", "0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b/", "~c", "0"]), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(["spec", "a/b", "~", "x"]), JSON)


@given(OBJECTS, OBJECTS)
@pytest.mark.guarantee("WH4")
def test_a_patch_always_leads_from_the_one_to_the_other(old, new):
    result = json_patch(old, patch_between(old, new))
    assert orjson.dumps(result, option=orjson.OPT_SORT_KEYS) == orjson.dumps(new, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("found", [False, True, "be careful", {"spec": {}}, [1]])
@pytest.mark.guarantee("WH5")
async def test_an_answer_that_is_no_list_of_warnings_is_a_broken_handler_and_allows_nothing(found):
    async def wrong(obj, request):
        return found

    for respond in (mutate, validate):
        response, broke, _ = await ask(body(), lambda r, respond=respond: respond(r, [wrong]))
        assert broke
        assert not response["allowed"]
        assert "return None or a list of warnings, and raise Denied to refuse" in response["status"]["message"]


@pytest.mark.guarantee("WH5")
async def test_a_handler_that_is_not_async_is_told_so():
    response, broke, _ = await ask(body(), lambda r: validate(r, [lambda obj, request: None]))
    assert broke
    assert "must be an async function" in response["status"]["message"]
