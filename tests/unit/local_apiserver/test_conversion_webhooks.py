"""Custom resources stored in one version and served in two, with a webhook between them."""

import base64

import orjson
import pytest
from support.apiserver import CRDS

from agentops.local.apiserver.webhook_caller import CallFailed

pytestmark = pytest.mark.anyio

V1 = "/apis/shop.example.com/v1/namespaces/default/coupons"
V1ALPHA1 = "/apis/shop.example.com/v1alpha1/namespaces/default/coupons"


def crd(**webhook):
    def version(name, stored, field, of):
        spec = {"type": "object", "required": [field], "properties": {field: {"type": of}}}
        schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
        return {"name": name, "served": True, "storage": stored, "schema": schema}

    conversion = {
        "strategy": "Webhook",
        "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://hooks.test/convert"}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "coupons.shop.example.com"},
        "spec": {
            "group": "shop.example.com",
            "scope": "Namespaced",
            "names": {"kind": "Coupon", "plural": "coupons"},
            "versions": [version("v1", True, "percent", "integer"), version("v1alpha1", False, "fraction", "string")],
            "conversion": {**conversion, **webhook},
        },
    }


def coupon(name, version="v1", **spec):
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": f"shop.example.com/{version}", "kind": "Coupon", "metadata": metadata, "spec": spec}


class Converter:
    """Plays the webhook's server."""

    def __init__(self):
        self.batches = []
        self.spoil = lambda response: response
        self.down = False

    async def __call__(self, target, review, timeout_s):
        request = review["request"]
        self.batches.append(len(request["objects"]))
        if self.down:
            raise CallFailed("connection refused")
        converted = []
        for obj in request["objects"]:
            assert obj["apiVersion"] != request["desiredAPIVersion"]
            spec = dict(obj["spec"])
            if request["desiredAPIVersion"].endswith("/v1"):
                spec["percent"] = round(float(spec.pop("fraction")) * 100)
            else:
                spec["fraction"] = str(spec.pop("percent") / 100)
            converted.append({**obj, "apiVersion": request["desiredAPIVersion"], "spec": spec})
        response = {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted}
        return {"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": self.spoil(response)}


@pytest.fixture
async def hook(api, server):
    server.webhooks.caller = Converter()
    assert (await api.post(CRDS, crd())).status == 201
    server.custom.establish_now()
    return server.webhooks.caller


async def test_each_version_shows_the_same_object_in_its_own_words(api, hook):
    made = await api.post(V1ALPHA1, coupon("a", "v1alpha1", fraction="0.25"))
    assert made.status == 201, made
    assert made.body["spec"] == {"fraction": "0.25"}
    stored = (await api.get(f"{V1}/a")).body
    assert (stored["apiVersion"], stored["spec"]) == ("shop.example.com/v1", {"percent": 25})
    assert stored["metadata"]["uid"] == made.body["metadata"]["uid"]
    old = (await api.get(f"{V1ALPHA1}/a")).body
    assert (old["apiVersion"], old["spec"]) == ("shop.example.com/v1alpha1", {"fraction": "0.25"})
    assert old["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


async def test_a_change_in_one_version_is_seen_in_the_other(api, hook):
    await api.post(V1, coupon("a", percent=10))
    reply = await api.patch(f"{V1ALPHA1}/a", {"spec": {"fraction": "0.5"}})
    assert reply.status == 200, reply
    assert (await api.get(f"{V1}/a")).body["spec"] == {"percent": 50}
    assert (await api.patch(f"{V1ALPHA1}/a", {"spec": {"fraction": 1}})).status == 422, "by its own schema"


async def test_the_stored_version_needs_no_webhook(api, hook):
    await api.post(V1, coupon("a", percent=10))
    await api.get(f"{V1}/a")
    await api.get(V1)
    assert hook.batches == []


async def test_a_list_is_one_call_and_asked_once(api, hook):
    for index in range(5):
        await api.post(V1, coupon(f"c{index}", percent=index + 1))
    items = (await api.get(V1ALPHA1)).body["items"]
    assert [item["spec"]["fraction"] for item in items] == ["0.01", "0.02", "0.03", "0.04", "0.05"]
    assert {item["apiVersion"] for item in items} == {"shop.example.com/v1alpha1"}
    await api.get(V1ALPHA1)
    assert hook.batches == [5]
    await api.patch(f"{V1}/c0", {"spec": {"percent": 99}})
    assert (await api.get(V1ALPHA1)).body["items"][0]["spec"] == {"fraction": "0.99"}
    assert hook.batches == [5, 1]


async def test_a_watch_converts_what_comes_in_order(api, hook):
    await api.post(V1, coupon("a", percent=10))
    watch = await api.watch(V1ALPHA1)
    assert (await watch.next())["object"]["spec"] == {"fraction": "0.1"}
    await api.post(V1, coupon("b", percent=20))
    await api.patch(f"{V1}/b", {"spec": {"percent": 30}})
    await api.delete(f"{V1}/b")
    seen = [await watch.next() for _ in range(3)]
    assert [(e["type"], e["object"]["spec"]["fraction"]) for e in seen] == [
        ("ADDED", "0.2"), ("MODIFIED", "0.3"), ("DELETED", "0.3"),
    ]  # fmt: skip
    await watch.close()


async def test_a_watch_ends_with_an_error_when_the_webhook_is_down(api, hook):
    watch = await api.watch(V1ALPHA1)
    hook.down = True
    await api.post(V1, coupon("b", percent=20))
    events = await watch.rest()
    assert [event["type"] for event in events] == ["ERROR"]
    assert (
        "conversion webhook for shop.example.com/v1, Kind=Coupon failed: connection refused"
        in (events[0]["object"]["message"])
    )


async def test_without_the_webhook_only_its_versions_fail(api, hook):
    await api.post(V1, coupon("a", percent=10))
    hook.down = True
    assert (await api.get(V1ALPHA1)).status == 500
    assert (await api.post(V1ALPHA1, coupon("b", "v1alpha1", fraction="0.1"))).status == 500
    assert (await api.get(V1)).status == 200
    hook.down = False
    assert (await api.get(V1ALPHA1)).status == 200


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda r: {**r, "uid": "x"}, "expected response.uid"),
        (lambda r: {**r, "result": {"status": "Failed", "message": "I cannot"}}, "I cannot"),
        (lambda r: {**r, "convertedObjects": []}, "returned 0 objects, expected 1"),
        (lambda r: {**r, "convertedObjects": [{**r["convertedObjects"][0], "kind": "X"}]}, "index 0"),
        (
            lambda r: {**r, "convertedObjects": [{**r["convertedObjects"][0], "metadata": {"name": "x"}}]},
            "name changed",
        ),
    ],
)
async def test_an_answer_that_breaks_the_rules_is_refused(api, hook, spoil, why):
    await api.post(V1, coupon("a", percent=10))
    hook.spoil = spoil
    reply = await api.get(f"{V1ALPHA1}/a")
    assert reply.status == 500
    assert why in reply.message


async def test_an_admission_webhook_sees_the_version_it_asked_for(api, hook):
    """matchPolicy Equivalent: the write is of v1alpha1, the rule names v1."""
    seen = []

    async def both(target, review, timeout_s):
        if review["kind"] == "ConversionReview":
            return await hook(target, review, timeout_s)
        request = review["request"]
        seen.append((request["kind"]["version"], request["requestKind"]["version"], request["object"]["spec"]))
        operations = [{"op": "replace", "path": "/spec/percent", "value": 50}]
        patch = base64.b64encode(orjson.dumps(operations)).decode()
        response = {"uid": request["uid"], "allowed": True, "patch": patch, "patchType": "JSONPatch"}
        return {"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response}

    api.server.webhooks.caller = both
    rule = {"apiGroups": ["*"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["coupons"]}
    webhook = {
        "name": "m.example.com", "clientConfig": {"url": "https://hooks.test/m"}, "rules": [rule],
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    }  # fmt: skip
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    assert (await api.post(path, {**kind, "metadata": {"name": "m"}, "webhooks": [webhook]})).status == 201
    reply = await api.post(V1ALPHA1, coupon("a", "v1alpha1", fraction="0.25"))
    assert seen == [("v1", "v1alpha1", {"percent": 25})]
    assert reply.body["spec"] == {"fraction": "0.5"}
    assert (await api.get(f"{V1}/a")).body["spec"] == {"percent": 50}
    await api.patch(f"{path}/m", {"webhooks": [{**webhook, "matchPolicy": "Exact"}]})
    await api.post(V1ALPHA1, coupon("b", "v1alpha1", fraction="0.25"))
    assert len(seen) == 1


async def test_a_crd_goes_with_its_objects(api, hook, server):
    await api.post(V1, coupon("a", percent=10))
    await api.delete(f"{CRDS}/coupons.shop.example.com")
    server.custom.establish_now()
    assert (await api.get(V1)).status == 404
