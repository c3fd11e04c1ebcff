"""What the API server asks webhooks, when, and what it does with their answers."""

import base64

import anyio
import orjson
import pytest
from support.apiserver import CONFIG_MAPS, WIDGETS, config_map, widget

from agentops.local.apiserver.webhook_caller import CallFailed, HttpCaller, Target, target_of

pytestmark = pytest.mark.anyio

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
SERVICES = "/api/v1/namespaces/default/services"
ENDPOINTS = "/api/v1/namespaces/default/endpoints"
ALL = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]


class Webhook:
    """Plays the servers behind all URLs: `answers[url]` is a function of the request."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.gate = None

    async def __call__(self, target, review, timeout_s):
        request = review["request"]
        self.asked.append((target.url.rpartition("/")[2], request))
        if self.gate is not None:
            await self.gate(target, request)
        answer = self.answers[target.url.rpartition("/")[2]]
        if isinstance(answer, Exception):
            raise answer
        return {
            "apiVersion": review["apiVersion"],
            "kind": "AdmissionReview",
            "response": {"uid": request["uid"], "allowed": True, **answer(request)},
        }

    @property
    def names(self):
        return [name for name, _ in self.asked]


@pytest.fixture
def hook(server):
    server.webhooks.caller = Webhook()
    return server.webhooks.caller


async def register(api, hook, sort, name, answer=lambda request: {}, **spec):
    hook.answers[name] = answer
    found = {
        "name": f"{name}.example.com",
        "clientConfig": {"url": f"https://hooks.test/{name}"},
        "rules": ALL,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **spec,
    }
    kind = f"{sort.title()}WebhookConfiguration"
    obj = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}}
    reply = await api.post(f"{CONFIGURATIONS}/{kind.lower()}s", {**obj, "webhooks": [found]})
    assert reply.status == 201, reply


def patched(*operations):
    return {"patch": base64.b64encode(orjson.dumps(operations)).decode(), "patchType": "JSONPatch"}


def set_data(key, value):
    def answer(request):
        obj = request["object"]
        changed = {**obj, "data": {**(obj.get("data") or {}), key: value}}
        return patched({"op": "add", "path": "/data", "value": changed["data"]})

    return answer


def deny(message="no", **status):
    return lambda request: {"allowed": False, "status": {"message": message, **status}}


async def test_a_mutation_is_stored_and_what_is_stored_was_validated(api, hook):
    await register(api, hook, "mutating", "m", set_data("added", "yes"))
    await register(api, hook, "validating", "v")
    reply = await api.post(CONFIG_MAPS, config_map("a", own="1"))
    assert reply.status == 201
    assert reply.body["data"] == {"own": "1", "added": "yes"}
    assert (await api.get(f"{CONFIG_MAPS}/a")).body["data"] == {"own": "1", "added": "yes"}
    (first, asked), (second, judged) = hook.asked
    assert (first, second) == ("m", "v")
    assert asked["object"]["data"] == {"own": "1"}
    assert judged["object"]["data"] == {"own": "1", "added": "yes"}
    assert judged["object"]["metadata"]["uid"] == reply.body["metadata"]["uid"], "webhooks see the uid that is stored"
    assert asked["operation"] == "CREATE"
    assert asked["oldObject"] is None
    assert asked["namespace"] == "default"
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["userInfo"]["username"] == "system:admin"


async def test_mutating_webhooks_run_by_name_and_see_one_another(api, hook):
    await register(api, hook, "mutating", "b", lambda r: set_data("b", r["object"]["data"]["a"] + "b")(r))
    await register(api, hook, "mutating", "a", set_data("a", "a"))
    assert (await api.post(CONFIG_MAPS, config_map("x"))).body["data"] == {"a": "a", "b": "ab"}
    assert hook.names == ["a", "b"]


async def test_who_wants_is_asked_again_after_others_changed_the_object(api, hook):
    await register(
        api, hook, "mutating", "a", lambda r: set_data("seen", ",".join(r["object"]["data"]))(r),
        reinvocationPolicy="IfNeeded",
    )  # fmt: skip
    await register(api, hook, "mutating", "b", set_data("b", "b"))
    assert (await api.post(CONFIG_MAPS, config_map("x", own="1"))).body["data"]["seen"] == "own,seen,b"
    assert hook.names == ["a", "b", "a"]


async def test_a_refusal_stores_nothing_and_says_who_refused(api, hook):
    await register(api, hook, "validating", "v", deny("size is odd", code=422, reason="Invalid"))
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert reply.status == 422
    assert reply.message == 'admission webhook "v.example.com" denied the request: size is odd'
    assert (await api.get(f"{CONFIG_MAPS}/a")).status == 404
    hook.answers["v"] = lambda request: {"allowed": False}
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert reply.status == 400
    assert reply.message.endswith("denied the request without explanation")


async def test_updates_patches_and_applies_have_the_old_object(api, hook):
    await api.post(CONFIG_MAPS, config_map("a", n="1"))
    await register(api, hook, "validating", "v")
    await api.put(f"{CONFIG_MAPS}/a", config_map("a", n="2"))
    await api.patch(f"{CONFIG_MAPS}/a", {"data": {"n": "3"}})
    await api.apply(f"{CONFIG_MAPS}/a", config_map("a", n="4"), "me", force=True)
    seen = [(r["operation"], r["oldObject"]["data"]["n"], r["object"]["data"]["n"]) for _, r in hook.asked]
    assert seen == [("UPDATE", "1", "2"), ("UPDATE", "2", "3"), ("UPDATE", "3", "4")]


async def test_a_deletion_is_asked_with_the_old_object_only(api, hook):
    await api.post(CONFIG_MAPS, config_map("a"))
    await register(api, hook, "validating", "v", deny("it is needed", code=403))
    reply = await api.delete(f"{CONFIG_MAPS}/a")
    assert reply.status == 403
    ((_, request),) = hook.asked
    assert request["operation"] == "DELETE"
    assert request["object"] is None
    assert request["oldObject"]["metadata"]["name"] == "a"
    hook.answers["v"] = lambda request: {}
    assert (await api.delete(f"{CONFIG_MAPS}/a")).status == 200
    assert (await api.get(f"{CONFIG_MAPS}/a")).status == 404


async def test_deleting_a_collection_asks_about_each(api, hook):
    for name in ("a", "b", "c"):
        await api.post(CONFIG_MAPS, config_map(name))
    await register(api, hook, "validating", "v", lambda r: deny()(r) if r["name"] == "c" else {})
    assert (await api.delete(CONFIG_MAPS)).status == 400
    assert {"a", "b", "c"} <= {item["metadata"]["name"] for item in (await api.get(CONFIG_MAPS)).body["items"]}
    hook.answers["v"] = lambda request: {}
    hook.asked.clear()
    deleted = (await api.delete(CONFIG_MAPS)).body["items"]
    assert {"a", "b", "c"} <= {item["metadata"]["name"] for item in deleted}
    assert len(hook.asked) == len(deleted), "about each, and once"
    assert (await api.get(CONFIG_MAPS)).body["items"] == []


async def test_failure_policy_decides_when_there_is_no_answer(api, hook):
    await register(api, hook, "validating", "v")
    hook.answers["v"] = CallFailed("connection refused")
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert reply.status == 500
    assert 'failed calling webhook "v.example.com": failed to call webhook: connection refused' in reply.message
    await api.delete(f"{CONFIGURATIONS}/validatingwebhookconfigurations/v")
    await register(api, hook, "mutating", "m", failurePolicy="Ignore")
    hook.answers["m"] = CallFailed("connection refused")
    assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 201


async def test_an_answer_for_another_question_is_a_failure(api, hook):
    await register(api, hook, "validating", "v", lambda request: {"uid": "other"})
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert reply.status == 500
    assert "expected response.uid" in reply.message


async def test_a_webhook_that_hangs_is_left_after_its_timeout(api, hook):
    await register(api, hook, "validating", "v", timeoutSeconds=1, failurePolicy="Ignore")

    async def hang(target, request):
        await anyio.sleep_forever()

    hook.gate = hang
    with anyio.fail_after(5):
        assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 201


async def test_selectors_and_rules_choose_what_is_asked(api, hook):
    await register(api, hook, "validating", "labelled", objectSelector={"matchLabels": {"watch": "me"}})
    await register(
        api, hook, "validating", "elsewhere", namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "x"}}
    )
    await register(api, hook, "validating", "pods", rules=[{**ALL[0], "resources": ["pods"]}])
    await register(api, hook, "validating", "updates", rules=[{**ALL[0], "operations": ["UPDATE"]}])
    await register(api, hook, "validating", "cluster", rules=[{**ALL[0], "scope": "Cluster"}])
    await register(api, hook, "validating", "subresource", rules=[{**ALL[0], "resources": ["configmaps/status"]}])
    await register(
        api, hook, "validating", "everything",
        rules=[{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}],
    )  # fmt: skip
    await api.post(CONFIG_MAPS, config_map("a"))
    assert hook.names == ["everything"]
    hook.asked.clear()
    labelled = config_map("b")
    labelled["metadata"]["labels"] = {"watch": "me"}
    await api.post(CONFIG_MAPS, labelled)
    assert sorted(hook.names) == ["everything", "labelled"]


async def test_webhook_configurations_cannot_lock_themselves(api, hook):
    everything = [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]
    await register(api, hook, "validating", "v", deny(), rules=everything)
    assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 400
    assert (await api.delete(f"{CONFIGURATIONS}/validatingwebhookconfigurations/v")).status == 200
    assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 201


async def test_a_dry_run_asks_webhooks_and_tells_them(api, hook):
    await register(api, hook, "mutating", "m", set_data("added", "yes"), sideEffects="NoneOnDryRun")
    reply = await api.post(CONFIG_MAPS + "?dryRun=All", config_map("a"))
    assert reply.body["data"] == {"added": "yes"}
    assert hook.asked[0][1]["dryRun"] is True
    assert (await api.get(f"{CONFIG_MAPS}/a")).status == 404


async def test_warnings_reach_the_client_once(api, hook):
    await register(api, hook, "validating", "v", lambda request: {"warnings": ["be careful"]})
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert reply.warnings == '299 - "be careful"'


async def test_a_change_while_webhooks_think_is_not_overwritten(api, hook):
    await api.post(CONFIG_MAPS, config_map("a", n="1"))
    await register(api, hook, "mutating", "m", set_data("added", "yes"))
    raced = False

    async def race(target, request):
        nonlocal raced
        if not raced:
            raced = True
            await api.patch(f"{CONFIG_MAPS}/a", {"data": {"other": "2"}})

    hook.gate = race
    reply = await api.patch(f"{CONFIG_MAPS}/a", {"data": {"mine": "3"}})
    assert reply.status == 200
    assert reply.body["data"] == {"n": "1", "other": "2", "mine": "3", "added": "yes"}
    assert len(hook.asked) == 3, "asked again for the new state"


async def test_an_update_of_an_old_version_conflicts_after_the_webhooks_too(api, hook):
    made = (await api.post(CONFIG_MAPS, config_map("a", n="1"))).body
    await register(api, hook, "validating", "v")

    async def race(target, request):
        hook.gate = None
        await api.patch(f"{CONFIG_MAPS}/a", {"data": {"other": "2"}})

    hook.gate = race
    made["data"]["n"] = "9"
    assert (await api.put(f"{CONFIG_MAPS}/a", made)).status == 409


async def test_a_mutated_custom_resource_is_validated_by_its_schema(widgets, hook):
    rules = [{"apiGroups": ["test.example.com"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]
    bad = patched({"op": "add", "path": "/spec", "value": "not an object"})
    await register(widgets, hook, "mutating", "m", lambda request: bad, rules=rules)
    reply = await widgets.post(WIDGETS, widget("w"))
    assert reply.status == 422, reply
    hook.answers["m"] = lambda request: patched({"op": "remove", "path": "/spec/mode"})
    reply = await widgets.post(WIDGETS, widget("w"))
    assert reply.body["spec"]["mode"] == "daemon", "defaulted again"


async def test_generated_names_are_asked_once_and_stored(api, hook):
    await register(api, hook, "mutating", "m", set_data("added", "yes"))
    obj = config_map("")
    obj["metadata"] = {"generateName": "gen-"}
    reply = await api.post(CONFIG_MAPS, obj)
    assert reply.status == 201
    assert reply.body["metadata"]["name"].startswith("gen-")
    assert hook.names == ["m"]


# where a webhook is


async def service(api, *, ready=True):
    spec = {"clusterIP": "None", "ports": [{"name": "https", "port": 443, "targetPort": 9443}]}
    await api.post(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": spec})
    ports = [{"name": "https", "port": 9443}]
    subsets = [{"addresses": [{"ip": "10.1.2.3"}], "ports": ports}] if ready else []
    body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "hook"}, "subsets": subsets}
    assert (await api.post(ENDPOINTS, body)).status == 201


def of_service(**changes):
    return {"service": {"namespace": "default", "name": "hook", "path": "/judge", **changes}}


async def test_a_service_is_called_at_an_endpoint_under_its_own_name(api, server):
    await service(api)
    assert target_of(of_service(), server.store) == Target("https://10.1.2.3:9443/judge", "", "hook.default.svc")


async def test_a_service_that_cannot_be_called_says_why(api, server):
    with pytest.raises(CallFailed, match='service "hook" not found'):
        target_of(of_service(), server.store)
    await service(api, ready=False)
    with pytest.raises(CallFailed, match="no endpoints available"):
        target_of(of_service(), server.store)
    with pytest.raises(CallFailed, match="no service port 8443"):
        target_of(of_service(port=8443), server.store)
    with pytest.raises(CallFailed, match="caBundle"):
        target_of({"url": "https://x", "caBundle": "!"}, server.store)


async def test_nobody_listening_and_a_bad_authority_are_failed_calls():
    caller = HttpCaller()
    with pytest.raises(CallFailed, match=r"127\.0\.0\.1:1/"):
        await caller(Target("https://127.0.0.1:1/x"), {}, 1.0)
    with pytest.raises(CallFailed, match="root certificates"):
        await caller(Target("https://127.0.0.1:1/x", "garbage"), {}, 1.0)


def conditions(*expressions):
    return [{"name": f"c{index}", "expression": text} for index, text in enumerate(expressions)]


@pytest.mark.parametrize(
    ("expressions", "called"),
    [
        (["object.data.kind == 'wanted'"], True),
        (["object.data.kind == 'other'"], False),
        (["object.data.kind == 'wanted'", "oldObject == null"], True),
        (["object.data.kind == 'wanted'", "oldObject != null"], False),
        (["request.operation == 'CREATE' && request.resource.resource == 'configmaps'"], True),
        (["request.userInfo.username == 'system:admin' && 'system:masters' in request.userInfo.groups"], True),
        (["!(request.userInfo.groups.exists(g, g == 'system:masters'))"], False),
        (["request.name == 'a' && request.namespace == 'default' && !has(request.subResource)"], True),
        (["object.nothing.here == 1", "false"], False),
        (["authorizer.group('').resource('pods').namespace('x').check('delete').allowed()"], True),
        (["authorizer.requestResource.check('update').allowed()"], True),
        (["authorizer.serviceAccount('default', 'sa').path('/metrics').check('get').allowed()"], False),
    ],
)
@pytest.mark.parametrize("sort", ["mutating", "validating"])
async def test_only_what_meets_all_match_conditions_is_asked_about(api, hook, sort, expressions, called):
    await register(api, hook, sort, "h", matchConditions=conditions(*expressions))
    reply = await api.post(CONFIG_MAPS, config_map("a", kind="wanted"))
    assert reply.status == 201, reply.message
    assert bool(hook.asked) == called


@pytest.mark.parametrize("sort", ["mutating", "validating"])
async def test_a_failing_match_condition_goes_by_the_failure_policy(api, hook, sort):
    broken = conditions("object.data.x == '1'")
    await register(api, hook, sort, "h", deny(), matchConditions=broken, failurePolicy="Ignore")
    assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 201
    await register(api, hook, sort, "i", deny(), matchConditions=broken)
    reply = await api.post(CONFIG_MAPS, config_map("b"))
    assert (reply.status, reply.reason) == (403, "Forbidden")
    told = "expression 'object.data.x == '1'' resulted in error: no such key: "
    assert reply.message.startswith(f'configmaps "b" is forbidden: {told}')
    assert hook.asked == []


async def test_match_conditions_see_what_the_webhook_before_left(api, hook):
    await register(api, hook, "mutating", "a", set_data("marked", "yes"))
    await register(api, hook, "mutating", "b", matchConditions=conditions("object.data.marked == 'yes'"))
    await api.post(CONFIG_MAPS, config_map("a", own="1"))
    assert hook.names == ["a", "b"]


async def test_match_conditions_of_a_deletion_have_the_old_object_only(api, hook):
    await api.post(CONFIG_MAPS, config_map("a"))
    await register(api, hook, "validating", "c", matchConditions=conditions("object == null && oldObject != null"))
    await api.delete(f"{CONFIG_MAPS}/a")
    assert hook.names == ["c"]


RULE = ALL[0]
REVIEWED = "admissionReviewVersions"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "short.name"}, "name: Invalid value: \"short.name\": should be a domain with at least three"),
        ({"name": "Not.A.Name"}, "name: Invalid value: \"Not.A.Name\": a lowercase RFC 1123 subdomain must consist"),
        ({"clientConfig": {}}, "clientConfig: Required value: exactly one of url or service is required"),
        ({"clientConfig": {"url": "https://x", "service": {"name": "a", "namespace": "b"}}}, "exactly one of url or"),
        ({"clientConfig": {"url": "http://x/y"}}, "url: Invalid value: \"http\": 'https' is the only allowed URL"),
        ({"clientConfig": {"url": "https:///y"}}, "host must be specified; desired format: https://host[/path]"),
        ({"clientConfig": {"url": "https://u:p@x/y"}}, "user information is not permitted in the URL"),
        ({"clientConfig": {"url": "https://x/y?z=1"}}, "query parameters are not permitted in the URL"),
        ({"clientConfig": {"url": "https://x/y#z"}}, "fragments are not permitted in the URL"),
        ({"clientConfig": {"service": {"name": "a"}}}, "clientConfig.service.namespace: Required value"),
        ({"clientConfig": {"service": {"name": "a", "namespace": "b", "port": 0}}}, "service.port: Invalid value: 0"),
        ({"clientConfig": {"service": {"name": "a", "namespace": "b", "path": "x"}}}, "must start with a '/'"),
        ({"sideEffects": "Some"}, 'sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"'),
        ({"sideEffects": None}, "sideEffects: Required value: must specify one of None, NoneOnDryRun"),
        ({"timeoutSeconds": 31}, "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30"),
        ({"timeoutSeconds": 0}, "timeoutSeconds: Invalid value: 0: the timeout value"),
        ({REVIEWED: []}, f"{REVIEWED}: Required value: must specify one of v1, v1beta1"),
        ({REVIEWED: ["v2"]}, "must include at least one of v1, v1beta1"),
        ({REVIEWED: ["v1", "v1"]}, f'{REVIEWED}[1]: Duplicate value: "v1"'),
        ({"failurePolicy": "Maybe"}, 'failurePolicy: Unsupported value: "Maybe": supported values: "Fail", "Ignore"'),
        ({"matchPolicy": "Maybe"}, 'matchPolicy: Unsupported value: "Maybe": supported values: "Equivalent", "Exact"'),
        ({"reinvocationPolicy": "Maybe"}, 'reinvocationPolicy: Unsupported value: "Maybe"'),
        ({"rules": [{**RULE, "operations": ["READ"]}]}, 'rules[0].operations[0]: Unsupported value: "READ"'),
        ({"rules": [{**RULE, "operations": ["*", "CREATE"]}]}, "if '*' is present, must not specify other operations"),
        ({"rules": [{**RULE, "operations": []}]}, "rules[0].operations: Required value"),
        ({"rules": [{**RULE, "apiGroups": []}]}, "rules[0].apiGroups: Required value"),
        ({"rules": [{**RULE, "apiVersions": [""]}]}, "rules[0].apiVersions[0]: Required value"),
        ({"rules": [{**RULE, "resources": ["*/*", "pods"]}]}, "if '*/*' is present, must not specify other resources"),
        ({"rules": [{**RULE, "resources": ["pods/*", "pods/status"]}]}, "if 'pods/*' is present, must not specify"),
        ({"rules": [{**RULE, "resources": ["*", "pods"]}]}, "must not specify other resources without subresources"),
        ({"rules": [{**RULE, "scope": "Galaxy"}]}, 'rules[0].scope: Unsupported value: "Galaxy"'),
        ({"objectSelector": {"matchLabels": {"a b": "c"}}}, "objectSelector.matchLabels: Invalid value"),
        ({"matchConditions": conditions("object.")}, 'matchConditions[0].expression: Invalid value: "object."'),
        ({"matchConditions": conditions("object.")}, "compilation failed: ERROR"),
        ({"matchConditions": conditions("nobody == 1")}, "undeclared reference to 'nobody'"),
        ({"matchConditions": conditions("request.verb == 'x'")}, "undefined field 'verb'"),
        ({"matchConditions": conditions("'text'")}, "must evaluate to bool"),
        ({"matchConditions": conditions("  ")}, "matchConditions[0].expression: Required value"),
        ({"matchConditions": conditions("true") * 2}, 'matchConditions[1].name: Duplicate value: "c0"'),
        ({"matchConditions": [{"name": "a b", "expression": "true"}]}, "matchConditions[0].name: Invalid value"),
        ({"matchConditions": [{"expression": "true"}]}, "matchConditions[0].name: Required value"),
    ],
)  # fmt: skip
async def test_a_configuration_that_cannot_work_is_refused_when_it_is_written(api, changes, told):
    spec = {
        "name": "h.example.com",
        "clientConfig": {"url": "https://hooks.test/h"},
        "rules": ALL,
        "sideEffects": "None",
        REVIEWED: ["v1"],
        **changes,
    }
    obj = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    body = {**obj, "metadata": {"name": "h"}, "webhooks": [{k: v for k, v in spec.items() if v is not None}]}
    reply = await api.post(f"{CONFIGURATIONS}/mutatingwebhookconfigurations", body)
    assert reply.status == 422, reply
    assert "webhooks[0]." in reply.message
    assert told in reply.message


async def test_two_webhooks_of_a_configuration_have_two_names(api, hook):
    await register(api, hook, "validating", "h")
    at = f"{CONFIGURATIONS}/validatingwebhookconfigurations/h"
    found = (await api.get(at)).body
    found["webhooks"] *= 2
    reply = await api.put(at, found)
    assert (reply.status, 'webhooks[1].name: Duplicate value: "h.example.com"' in reply.message) == (422, True)
