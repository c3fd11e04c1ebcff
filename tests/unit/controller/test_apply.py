import pytest
from hypothesis import given
from support.scripted_transport import ok, status

from agentops.controller import ForeignObject, ensure, matches
from agentops.controller.apply import APPLIED_DIGEST, differences
from agentops.controller.owners import owner_reference
from agentops.kube.client import ApiClient
from agentops.kube.kinds import CONFIG_MAP

pytestmark = pytest.mark.anyio


def deployment(**container):
    return {
        "metadata": {"name": "d", "labels": {"app": "x"}},
        "spec": {
            "replicas": 1,
            "template": {
                "spec": {"containers": [{"name": "agent", "image": "agentops:1", **container}], "volumes": []}
            },
        },
    }


def as_the_server_answers(**container):
    return {
        "metadata": {"name": "d", "uid": "u", "generation": 2, "labels": {"app": "x", "foreign": "kept"}},
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "template": {
                "spec": {
                    "restartPolicy": "Always",
                    "containers": [
                        {"name": "injected", "image": "proxy"},
                        {"name": "agent", "image": "agentops:1", "terminationMessagePath": "/dev/x", **container},
                    ],
                }
            },
        },
        "status": {"replicas": 1},
    }


def test_defaults_and_foreign_fields_do_not_differ():
    assert matches(deployment(), as_the_server_answers())


def test_path_of_the_difference_is_named():
    assert differences(deployment(image="agentops:2"), as_the_server_answers()) == [
        "spec.template.spec.containers[name=agent].image"
    ]


@pytest.mark.parametrize(
    ("desired", "live", "same"),
    [
        ({"limits": {"memory": "1024Mi", "cpu": "0.5"}}, {"limits": {"memory": "1Gi", "cpu": "500m"}}, True),
        ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1G"}}, False),
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": "1"}}, True),
        ({"image": "1024Mi"}, {"image": "1Gi"}, False),
        ({"sizeLimit": "1024Ki"}, {"sizeLimit": "1Mi"}, True),
        ({"env": []}, {}, True),
        ({"emptyDir": {}}, {}, True),
        ({"x": None}, {"x": 1}, True),
        ({"hostNetwork": False}, {}, True),
        ({"automountServiceAccountToken": False}, {}, False),
        ({"automountServiceAccountToken": False}, {"automountServiceAccountToken": True}, False),
        ({"replicas": 0}, {}, False),
        ({"replicas": 1}, {"replicas": True}, False),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}, True),
        ({"args": ["a"]}, {"args": ["a", "b"]}, False),
        ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, True),
        ({"subjects": [{"name": "a"}]}, {"subjects": [{"name": "a"}, {"name": "b"}]}, False),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 80, "protocol": "TCP"}]}, True),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 80}, {"port": 81}]}, False),
        ({"a": {"b": 1}}, {"a": "text"}, False),
        ({"a": [1]}, {"a": {"b": 1}}, False),
        ({"stringData": {"k": "v"}}, {"data": {"k": "dg=="}}, True),
        ({"stringData": {"k": "v"}}, {"data": {"k": "eA=="}}, False),
        ({"status": {"x": 1}}, {}, True),
    ],
)
@pytest.mark.guarantee("AP1")
def test_normalisation(desired, live, same):
    assert matches(desired, live) is same


@pytest.mark.guarantee("AP1")
def test_every_object_matches_itself():
    from hypothesis import strategies as st

    leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    trees = st.recursive(
        leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=4), t, max_size=3)
    )

    @given(st.dictionaries(st.text(max_size=4).filter(lambda k: k != "stringData"), trees, max_size=4))
    def check(obj):
        assert matches(obj, obj)

    check()


OWNER = {
    "apiVersion": "agents/v1",
    "kind": "Agent",
    "metadata": {"name": "me", "namespace": "ns", "uid": "u1"},
}
OTHER = {**OWNER, "metadata": {"name": "other", "namespace": "ns", "uid": "u2"}}
PATH = "/api/v1/namespaces/ns/configmaps/c"
DESIRED = {"metadata": {"name": "c", "namespace": "ns"}, "data": {"k": "v"}}


class Direct(ApiClient):
    """As `Client`, without a cache."""

    @property
    def live(self):
        return self

    async def try_get(self, kind, name, namespace=""):
        from agentops.kube.errors import NotFound

        try:
            return await self.get(kind, name, namespace)
        except NotFound:
            return None


@pytest.fixture
def client(transport):
    return Direct(transport)


def stored(transport):
    """The object as the server has it after the last apply."""
    body = transport.sent("PATCH")[-1].body
    return {**body, "metadata": {**body["metadata"], "uid": "x", "resourceVersion": "7"}}


@pytest.mark.guarantee("AP2")
async def test_absent_object_is_created_once_and_then_nothing_is_written(client, transport):
    transport.on("PATCH", PATH, lambda request: ok(request.body))
    outcome = await ensure(client, CONFIG_MAP, DESIRED, OWNER)
    assert outcome.action == "created"
    (request,) = transport.sent("PATCH")
    assert request.query["force"] == "false", "somebody may have created it meanwhile"
    transport.on("GET", PATH, ok(stored(transport)))
    for _ in range(2):
        outcome = await ensure(client, CONFIG_MAP, DESIRED, OWNER)
        assert (outcome.action, outcome.changed) == ("unchanged", False)
    assert len(transport.sent("PATCH")) == 1
    assert "annotations" not in DESIRED["metadata"], "the caller's object is not touched"


@pytest.mark.guarantee("AP3")
async def test_drift_is_repaired_and_named(client, transport):
    transport.on("PATCH", PATH, lambda request: ok(request.body))
    await ensure(client, CONFIG_MAP, DESIRED, OWNER)
    drifted = {**stored(transport), "data": {"k": "changed"}}
    transport.on("GET", PATH, ok(drifted))
    outcome = await ensure(client, CONFIG_MAP, DESIRED, OWNER)
    assert outcome.action == "updated"
    assert outcome.differences == ("data.k",)
    assert transport.sent("PATCH")[-1].query["force"] == "true"


@pytest.mark.guarantee("AP3")
async def test_field_that_is_no_longer_wanted_makes_an_update(client, transport):
    transport.on("PATCH", PATH, lambda request: ok(request.body))
    await ensure(client, CONFIG_MAP, {**DESIRED, "data": {"k": "v", "extra": "x"}}, OWNER)
    transport.on("GET", PATH, ok(stored(transport)))
    outcome = await ensure(client, CONFIG_MAP, DESIRED, OWNER)
    assert outcome.action == "updated"
    assert APPLIED_DIGEST in outcome.differences[0]


@pytest.mark.parametrize(
    ("references", "who"),
    [([owner_reference(OTHER)], "is controlled by Agent other"), ([], "exists and is controlled by nobody")],
)
@pytest.mark.guarantee("AP4")
async def test_object_of_somebody_else_is_not_touched(client, transport, references, who):
    live = {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "ns", "ownerReferences": references}}
    transport.on("GET", PATH, ok(live))
    with pytest.raises(ForeignObject, match=f"ConfigMap ns/c {who}, so it is not touched for Agent ns/me"):
        await ensure(client, CONFIG_MAP, DESIRED, OWNER)
    assert not transport.sent("PATCH")


async def test_unowned_object_can_be_adopted(client, transport):
    transport.on("GET", PATH, ok({"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "ns"}}))
    transport.on("PATCH", PATH, lambda request: ok(request.body))
    outcome = await ensure(client, CONFIG_MAP, DESIRED, OWNER, adopt=True)
    assert outcome.action == "updated"


async def test_object_on_its_way_out_is_left_alone(client, transport):
    live = {
        "metadata": {
            "name": "c",
            "namespace": "ns",
            "deletionTimestamp": "x",
            "ownerReferences": [owner_reference(OWNER)],
        }
    }
    transport.on("GET", PATH, ok(live))
    assert (await ensure(client, CONFIG_MAP, DESIRED, OWNER)).action == "deleting"


async def test_server_errors_come_through(client, transport):
    transport.on("PATCH", PATH, status(409, "Conflict", "Apply failed with 1 conflict"))
    with pytest.raises(Exception, match="Apply failed"):
        await ensure(client, CONFIG_MAP, DESIRED, OWNER)


@pytest.mark.guarantee("AP2")
@pytest.mark.parametrize(
    ("metadata", "why"),
    [({}, "name is empty"), ({"name": "x"}, "configmaps 'x': the object's namespace is empty")],
)
async def test_object_without_a_whole_key_is_refused_before_anything_is_sent(client, transport, metadata, why):
    with pytest.raises(ValueError, match=why):
        await ensure(client, CONFIG_MAP, {"metadata": metadata, "data": {}})
    with pytest.raises(ValueError, match="name is empty"):
        await ensure(client, CONFIG_MAP, {"data": {}})
    assert transport.requests == []
