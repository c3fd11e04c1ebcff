"""Agents on a real API server; the test plays the kubelet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.operator import NAMESPACE, agent_object, provider_object
from support.operator_plane import IMAGE, OperatorPlane, condition, has, operator_plane, phase
from support.plane import eventually

from agentops.api import labels
from agentops.api.kinds import AGENT, AGENT_RESOURCE, AGENT_TOOL, CHANNEL, PROVIDER
from agentops.api.memory_access import bearer_project
from agentops.kube.errors import Invalid
from agentops.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENTS_V1,
    NETWORK_POLICY,
    POD,
    PVC,
    REPLICA_SET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
)
from agentops.operator import plan
from agentops.operator.secrets import decode_value

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[OperatorPlane]:
    async with operator_plane(tmp_path) as plane:
        yield plane


@pytest.fixture
async def plane(bare: OperatorPlane) -> AsyncIterator[OperatorPlane]:
    async with bare.operator():
        yield bare


def container_ports(deployment: dict[str, Any]) -> list[int]:
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return [port["containerPort"] for port in container["ports"]]


def template_hash(deployment: dict[str, Any]) -> str:
    return str(deployment["spec"]["template"]["metadata"]["annotations"][labels.CONFIG_HASH])


async def test_a_daemon_gets_its_children_and_becomes_running(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(storage={"size": "1Gi"}, networkPolicy={"enabled": True}))
    await plane.start_daemon()
    for kind, name in (
        (SERVICE_ACCOUNT, "hello-agent"),
        (ROLE, "hello-agent"),
        (ROLE_BINDING, "hello-agent"),
        (SECRET, "hello-token"),
        (PVC, "hello-storage"),
        (CONFIG_MAP, "hello-config"),
        (DEPLOYMENT, "hello"),
        (SERVICE, "hello"),
        (NETWORK_POLICY, "hello-netpol"),
    ):
        child = await plane.get(kind, name)
        assert child["metadata"]["ownerReferences"][0]["name"] == "hello", f"{kind.kind} {name} has no owner"
    found = await plane.get(AGENT, "hello")
    status = found["status"]
    assert status["serviceURL"] == "http://hello.agents.svc:4096"
    assert status["storagePVC"] == "hello-storage"
    assert status["runtimeImage"] == IMAGE
    assert status["configHash"] == template_hash(await plane.get(DEPLOYMENT, "hello"))
    assert condition(found, "Ready")["reason"] == "Running"
    assert "Running" in await plane.event_reasons("hello")


async def test_a_settled_agent_costs_no_writes_and_drift_is_repaired(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(storage={"size": "1024Mi"}))
    await plane.start_daemon()
    assert await plane.quiet() == []
    await plane.patch(DEPLOYMENT, "hello", {"spec": {"replicas": 3}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: obj["spec"]["replicas"] == 1)
    await plane.patch(CONFIG_MAP, "hello-config", {"data": {"config.json": "{}"}})
    await plane.until(CONFIG_MAP, "hello-config", lambda obj: "schemaVersion" in obj["data"]["config.json"])
    await plane.patch(SERVICE, "hello", {"metadata": {"annotations": {"mine": "yes"}}})
    await plane.client.delete(ROLE, "hello-agent", NAMESPACE)
    await plane.until(ROLE, "hello-agent", lambda obj: obj["rules"])
    assert (await plane.get(SERVICE, "hello"))["metadata"]["annotations"]["mine"] == "yes"


async def test_a_port_that_somebody_renumbered_is_ours_again(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    await plane.start_daemon()
    port = {"name": "http", "port": 4097, "targetPort": 1, "protocol": "TCP"}
    labels_gone = {labels.COMPONENT: None, labels.MANAGED_BY: None}
    await plane.patch(SERVICE, "hello", {"metadata": {"labels": labels_gone}, "spec": {"ports": [port]}})
    await plane.until(SERVICE, "hello", lambda obj: [port["port"] for port in obj["spec"]["ports"]] == [4096])
    deployment = await plane.get(DEPLOYMENT, "hello")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["ports"] = [{"name": "http", "containerPort": 4097, "protocol": "TCP"}]
    await plane.patch(DEPLOYMENT, "hello", {"spec": {"template": {"spec": {"containers": [container]}}}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: container_ports(obj) == [4096])
    await plane.until(AGENT, "hello", has("ChildrenReady", "True"))
    assert (await plane.get(SERVICE, "hello"))["metadata"]["labels"][labels.COMPONENT] == "service"
    await plane.start_daemon()
    assert await plane.quiet() == []


async def test_a_restarted_operator_writes_nothing(bare: OperatorPlane) -> None:
    async with bare.operator():
        await bare.create(provider_object(), agent_object(), agent_object("scribe", mode="task"))
        await bare.start_daemon()
        await bare.until(AGENT, "scribe", has("Ready", "True", "Ready"))
        assert await bare.quiet() == []
    before = len(bare.log.writes)
    async with bare.operator():
        await bare.quiet()
        assert bare.log.writes[before:] == []


async def test_a_prompt_edit_rolls_the_pod_and_only_that(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    old_pod = await plane.start_daemon()
    old_hash = template_hash(await plane.get(DEPLOYMENT, "hello"))
    await plane.patch(AGENT, "hello", {"spec": {"systemPrompt": "Be brief."}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: template_hash(obj) != old_hash)
    await plane.until(AGENT, "hello", lambda obj: phase(obj) == "Pending")
    new_pod = await plane.start_daemon()
    assert new_pod != old_pod
    config = json.loads((await plane.get(CONFIG_MAP, "hello-config"))["data"]["config.json"])
    assert config["systemPrompt"] == "Be brief."
    await plane.patch(AGENT, "hello", {"spec": {"concurrency": {"policy": "reject"}}})
    await plane.quiet()
    assert template_hash(await plane.get(DEPLOYMENT, "hello")) != old_hash
    assert [pod["metadata"]["name"] for pod in await plane.pods("runtime")] == [new_pod]


async def test_a_task_has_no_deployment_and_is_ready(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object("scribe", mode="task"))
    found = await plane.until(AGENT, "scribe", has("Ready", "True", "Ready"))
    assert phase(found) == "Ready"
    assert "serviceURL" not in found["status"]
    assert await plane.absent(DEPLOYMENT, "scribe")
    assert await plane.absent(SERVICE, "scribe")


async def test_a_missing_provider_holds_the_first_creation_back_and_its_coming_lets_go(plane: OperatorPlane) -> None:
    await plane.create(agent_object())
    found = await plane.until(AGENT, "hello", has("ProvidersReady", "False", "ProviderNotFound"))
    assert "Provider agents/local" in condition(found, "ProvidersReady")["message"]
    assert phase(found) == "Pending"
    assert await plane.absent(DEPLOYMENT, "hello")
    assert not await plane.absent(SERVICE_ACCOUNT, "hello-agent")
    await plane.create(provider_object())
    await plane.start_daemon()


async def test_a_blocker_keeps_running_pods_and_repairs_their_drift(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    pod = await plane.start_daemon()
    await plane.client.delete(PROVIDER, "local", NAMESPACE)
    await plane.patch(AGENT, "hello", {"spec": {"systemPrompt": "Later."}})
    found = await plane.until(AGENT, "hello", has("ProvidersReady", "False", "ProviderNotFound"))
    assert phase(found) == "Running"
    assert "held back" in condition(found, "Ready")["message"]
    await plane.client.delete(DEPLOYMENT, "hello", NAMESPACE)
    await plane.until(DEPLOYMENT, "hello", lambda obj: not obj["metadata"].get("deletionTimestamp"))
    config = json.loads((await plane.get(CONFIG_MAP, "hello-config"))["data"]["config.json"])
    assert "systemPrompt" not in config, "the roll-out was not held back"
    await plane.create(provider_object())
    await plane.until(CONFIG_MAP, "hello-config", lambda obj: "Later." in obj["data"]["config.json"])
    assert await plane.start_daemon() != pod


async def test_an_unknown_model_prefix_names_field_and_fix(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(model="nowhere/x"))
    found = await plane.until(AGENT, "hello", has("ConfigValid", "False", "InvalidSpec"))
    message = condition(found, "ConfigValid")["message"]
    assert "spec.model" in message
    assert "'nowhere'" in message
    assert phase(found) == "Failed"
    assert await plane.absent(DEPLOYMENT, "hello")
    await plane.patch(AGENT, "hello", {"spec": {"model": "local/x"}})
    await plane.start_daemon()


def without_limits(spec: dict[str, Any]) -> None:
    spec["properties"]["maxSteps"] = {"type": "number"}


@pytest.mark.parametrize("field", ["maxSteps", "maxOutputTokens"])
async def test_a_number_nobody_can_hold_is_refused_with_its_field(plane: OperatorPlane, field: str) -> None:
    with pytest.raises(Invalid, match=f"spec.{field} in body must be of type integer"):
        await plane.create(agent_object(**{field: 1e20}))


async def test_a_spec_that_cannot_be_read_is_a_condition(plane: OperatorPlane) -> None:
    await plane.loosen(AGENT, without_limits)
    await plane.create(provider_object(), agent_object(maxSteps=1e20))
    found = await plane.until(AGENT, "hello", has("ConfigValid", "False", "InvalidSpec"))
    assert "spec.maxSteps: 1e+20" in condition(found, "ConfigValid")["message"]
    assert (phase(found), condition(found, "Ready")["reason"]) == ("Failed", "InvalidSpec")
    assert await plane.quiet() == []
    await plane.patch(AGENT, "hello", {"spec": {"maxSteps": 5}})
    await plane.start_daemon()


async def test_what_cannot_be_rendered_is_a_condition_and_leaves_the_pods(
    plane: OperatorPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.create(provider_object(), agent_object())
    pod = await plane.start_daemon()

    def broken(*args: Any) -> Any:
        raise TypeError("Integer exceeds 64-bit range")

    with monkeypatch.context() as patched:
        patched.setattr(plan, "render", broken)
        await plane.patch(AGENT, "hello", {"spec": {"systemPrompt": "Later."}})
        found = await plane.until(AGENT, "hello", has("ChildrenReady", "False", "RenderFailed"))
        assert "Integer exceeds 64-bit range" in condition(found, "ChildrenReady")["message"]
        assert await plane.quiet() == []
        assert [item["metadata"]["name"] for item in await plane.pods("runtime")] == [pod]
    await plane.patch(AGENT, "hello", {"spec": {"systemPrompt": "Now."}})
    await plane.until(AGENT, "hello", has("ChildrenReady", "True"))


async def test_a_missing_secret_of_the_agent_is_named(plane: OperatorPlane) -> None:
    wanted = [{"name": "GH_TOKEN", "secretRef": {"name": "github", "key": "token"}}]
    await plane.create(provider_object(), agent_object(secrets=wanted))
    found = await plane.until(AGENT, "hello", has("DependenciesReady", "False", "SecretNotFound"))
    assert "Secret agents/github of spec.secrets[0].secretRef" in condition(found, "DependenciesReady")["message"]
    meta = {"name": "github", "namespace": NAMESPACE}
    await plane.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": "t"}})
    await plane.start_daemon()
    before = template_hash(await plane.get(DEPLOYMENT, "hello"))
    await plane.patch(SECRET, "github", {"stringData": {"token": "other"}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: template_hash(obj) != before)
    await plane.patch(SECRET, "github", {"metadata": {"annotations": {"seen": "yes"}}})


async def test_a_new_key_of_its_provider_rolls_the_agent(plane: OperatorPlane) -> None:
    meta = {"name": "key", "namespace": NAMESPACE}
    await plane.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"k": "old"}})
    await plane.create(provider_object(apiKeySecret={"name": "key", "key": "k"}), agent_object())
    await plane.start_daemon()
    before = template_hash(await plane.get(DEPLOYMENT, "hello"))
    await plane.patch(SECRET, "key", {"metadata": {"labels": {"seen": "yes"}}})
    assert await plane.quiet() == []
    await plane.patch(SECRET, "key", {"stringData": {"k": "new"}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: template_hash(obj) != before)


async def test_a_context_file_is_waited_for_and_followed(plane: OperatorPlane) -> None:
    await plane.create(
        provider_object(), agent_object(contextFiles=[{"configMapRef": {"name": "team", "key": "AGENTS.md"}}])
    )
    await plane.until(AGENT, "hello", has("DependenciesReady", "False", "ConfigMapNotFound"))
    meta = {"name": "team", "namespace": NAMESPACE}
    await plane.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"AGENTS.md": "one"}})
    await plane.start_daemon()
    before = template_hash(await plane.get(DEPLOYMENT, "hello"))
    await plane.patch(CONFIG_MAP, "team", {"data": {"AGENTS.md": "two"}})
    await plane.until(DEPLOYMENT, "hello", lambda obj: template_hash(obj) != before)


async def test_what_the_spec_no_longer_wants_is_deleted(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(networkPolicy={"enabled": True}))
    await plane.start_daemon()
    await plane.patch(AGENT, "hello", {"spec": {"networkPolicy": None, "serviceAccountName": "default"}})
    for kind, name in ((NETWORK_POLICY, "hello-netpol"), (SERVICE_ACCOUNT, "hello-agent"), (ROLE, "hello-agent")):
        await plane.gone(kind, name)
    assert not await plane.absent(SERVICE, "hello")

    async def told() -> bool:
        events = await plane.client.list(EVENTS_V1, NAMESPACE)
        deleted = [event for event in events if event["reason"] == "ChildDeleted"]
        return {(event["related"]["kind"], event["related"]["name"]) for event in deleted} == {
            ("NetworkPolicy", "hello-netpol"),
            ("ServiceAccount", "hello-agent"),
            ("Role", "hello-agent"),
            ("RoleBinding", "hello-agent"),
        } and all(event["related"]["kind"] in event["note"] for event in deleted)

    await eventually(told)


async def test_an_object_of_somebody_else_is_left_alone_and_named(plane: OperatorPlane) -> None:
    meta = {"name": "hello", "namespace": NAMESPACE}
    foreign = {"ports": [{"port": 80}], "selector": {"app": "mine"}}
    await plane.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": foreign})
    await plane.create(provider_object(), agent_object())
    found = await plane.until(AGENT, "hello", has("ChildrenReady", "False", "ForeignObject"))
    assert "Service agents/hello" in condition(found, "ChildrenReady")["message"]
    service = await plane.get(SERVICE, "hello")
    assert service["spec"]["selector"] == {"app": "mine"}
    assert "ownerReferences" not in service["metadata"]
    await plane.start_daemon()  # pods are reached by their addresses; what is wrong is told all the same
    running = await plane.get(AGENT, "hello")
    assert condition(running, "Ready")["message"].startswith("the daemon answers; but Service agents/hello exists")
    assert "Service agents/hello exists" in running["status"]["message"]


@pytest.mark.parametrize("what", ["ServiceAccount", "Role", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy"])
async def test_no_child_uses_an_object_of_somebody_else(plane: OperatorPlane, what: str) -> None:
    kind, suffix, body = {
        "ServiceAccount": (SERVICE_ACCOUNT, "agent", {}),
        "Role": (ROLE, "agent", {"rules": []}),
        "ConfigMap": (CONFIG_MAP, "config", {"data": {"config.json": "{}"}}),
        "PersistentVolumeClaim": (
            PVC,
            "storage",
            {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
        ),
        "NetworkPolicy": (NETWORK_POLICY, "netpol", {"spec": {"podSelector": {}}}),
    }[what]
    meta = {"name": f"hello-{suffix}", "namespace": NAMESPACE}
    await plane.client.create(kind, {"apiVersion": kind.api_version, "kind": what, "metadata": meta, **body})
    await plane.create(
        provider_object(), agent_object(storage={"size": "1Gi"}, networkPolicy={"enabled": True}, timeout="1m")
    )
    failed = await plane.until(AGENT, "hello", has("Ready", "False", "ForeignObject"))
    assert f"{what} agents/hello-{suffix} exists" in failed["status"]["message"]
    assert await plane.absent(DEPLOYMENT, "hello") == (what != "Role")
    assert await plane.absent(ROLE_BINDING, "hello-agent") == (what in ("Role", "ServiceAccount"))
    await plane.client.delete(kind, meta["name"], NAMESPACE)
    await plane.until(AGENT, "hello", has("ChildrenReady", "True"))
    assert not await plane.absent(DEPLOYMENT, "hello")
    assert not await plane.absent(ROLE_BINDING, "hello-agent")


@pytest.mark.parametrize("what", ["Service", "Secret"])
async def test_an_agent_goes_on_as_soon_as_a_foreign_object_is_out_of_its_way(plane: OperatorPlane, what: str) -> None:
    kind = {"Service": SERVICE, "Secret": SECRET}[what]
    meta = {"name": {"Service": "hello", "Secret": "hello-token"}[what], "namespace": NAMESPACE}
    body = {"spec": {"ports": [{"port": 80}]}} if what == "Service" else {"stringData": {"mine": "yes"}}
    await plane.create({"apiVersion": "v1", "kind": what, "metadata": meta, **body})
    await plane.create(provider_object(), agent_object())
    await plane.until(AGENT, "hello", has("ChildrenReady", "False", "ForeignObject"))
    await plane.client.delete(kind, meta["name"], NAMESPACE)
    await plane.until(AGENT, "hello", has("ChildrenReady", "True"))
    await plane.start_daemon()
    assert (await plane.get(kind, meta["name"]))["metadata"]["ownerReferences"][0]["name"] == "hello"


async def test_an_agent_takes_over_what_its_user_hands_to_it(plane: OperatorPlane) -> None:
    meta = {"name": "hello-agent", "namespace": NAMESPACE}
    await plane.client.create(SERVICE_ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    await plane.create(provider_object(), agent_object())
    blocked = await plane.until(AGENT, "hello", has("ChildrenReady", "False", "ForeignObject"))
    owner = {"apiVersion": AGENT.api_version, "kind": "Agent", "name": "hello", "uid": blocked["metadata"]["uid"]}
    await plane.patch(
        SERVICE_ACCOUNT, "hello-agent", {"metadata": {"ownerReferences": [{**owner, "controller": True}]}}
    )
    await plane.until(AGENT, "hello", has("ChildrenReady", "True"))
    taken = await plane.get(SERVICE_ACCOUNT, "hello-agent")
    assert taken["metadata"]["labels"][labels.AGENT] == "hello"


async def test_an_upgraded_operator_restarts_nobody_until_asked(bare: OperatorPlane) -> None:
    from agentops.operator import app

    async with bare.operator():
        await bare.create(provider_object(), agent_object())
        pod = await bare.start_daemon()
    settings = app.OperatorOptions(metrics_bind=None, probes_bind=None, grace_s=2.0, endpoints=_other_endpoints())
    newer = app.Operator(bare.log, settings, runtime_image="agentops:newer", http=bare.runtime.client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(newer.run)
        await newer.manager.elected.wait()
        await bare.quiet()
        assert [item["metadata"]["name"] for item in await bare.pods("runtime")] == [pod]
        await bare.patch(AGENT, "hello", {"metadata": {"annotations": {labels.UPGRADE: "1"}}})
        await bare.until(AGENT, "hello", lambda obj: obj["status"].get("runtimeImage") == "agentops:newer")
        await bare.start_daemon()
        containers = (await bare.get(DEPLOYMENT, "hello"))["spec"]["template"]["spec"]["containers"]
        assert containers[0]["image"] == "agentops:newer"
        assert (await bare.get(AGENT, "hello"))["status"]["observedUpgrade"] == "1"
        assert await bare.quiet() == []
        tasks.cancel_scope.cancel()


def _other_endpoints() -> Any:
    from agentops.operator.objects.env import Endpoints

    return Endpoints(otel="http://tempo:4318")


async def test_a_crashing_container_is_told_in_the_ready_condition(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    pods: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        while not pods:
            pods = await plane.pods("runtime")
            await anyio.sleep(0.02)
    pod = pods[0]
    terminated = {"exitCode": 2, "reason": "Error", "message": "config.json: schemaVersion 9 is newer than 1"}
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [
            {
                "name": "agent-runtime",
                "image": "x",
                "imageID": "",
                "ready": False,
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": terminated},
            }
        ],
    }
    await plane.client.update(POD, pod, subresource="status")
    found = await plane.until(AGENT, "hello", has("Ready", "False", "CrashLoopBackOff"))
    assert "schemaVersion 9 is newer than 1" in condition(found, "Ready")["message"]
    assert phase(found) == "Failed"


async def test_a_memory_service_gets_a_token_that_the_agent_mounts(plane: OperatorPlane) -> None:
    meta = {"name": "agentops-memory", "namespace": NAMESPACE, "labels": {labels.COMPONENT: "memory"}}
    await plane.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 7437}]}})
    await plane.create(provider_object(), agent_object(memory={"serverRef": "agentops-memory"}))
    await plane.start_daemon()
    token = await plane.get(SECRET, "agentops-memory-token")
    assert token["metadata"]["ownerReferences"][0]["kind"] == "Service"
    pod = (await plane.get(DEPLOYMENT, "hello"))["spec"]["template"]["spec"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "memory-token"]
    assert volume["secret"]["secretName"] == "hello-token"
    assert volume["secret"]["items"] == [{"key": "memory-token", "path": "token"}]
    own = decode_value((await plane.get(SECRET, "hello-token"))["data"]["memory-token"]).decode()
    assert bearer_project(own, decode_value(token["data"]["token"]).decode()) == "hello"
    assert len(await plane.client.list(REPLICA_SET, NAMESPACE)) == 1, "the pod was rolled for the token"


@pytest.mark.parametrize("labelled", [True, False], ids=["ours", "somebody's"])
async def test_a_memory_service_that_is_missing_is_named_and_holds_nothing_back(
    plane: OperatorPlane, labelled: bool
) -> None:
    await plane.create(provider_object(), agent_object(memory={"serverRef": "nosuch"}))
    await plane.start_daemon()
    found = await plane.until(AGENT, "hello", has("DependenciesReady", "False", "MemoryNotFound"))
    assert "Service agents/nosuch of spec.memory.serverRef" in condition(found, "DependenciesReady")["message"]
    assert condition(found, "Ready")["status"] == "True"
    assert await plane.quiet() == []
    meta = {"name": "nosuch", "namespace": NAMESPACE, "labels": {labels.COMPONENT: "memory"} if labelled else {}}
    await plane.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 7437}]}})
    await plane.until(AGENT, "hello", has("DependenciesReady", "True", "AllReady"))


async def test_a_service_account_that_is_missing_is_waited_for(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(serviceAccountName="nosuch"))
    found = await plane.until(AGENT, "hello", has("DependenciesReady", "False", "ServiceAccountNotFound"))
    assert "ServiceAccount agents/nosuch of spec.serviceAccountName" in condition(found, "DependenciesReady")["message"]
    assert phase(found) == "Pending"
    assert await plane.absent(DEPLOYMENT, "hello")
    assert await plane.quiet() == []
    meta = {"name": "nosuch", "namespace": NAMESPACE}
    await plane.client.create(SERVICE_ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    await plane.start_daemon()
    assert condition(await plane.get(AGENT, "hello"), "DependenciesReady")["status"] == "True"


async def test_a_memory_service_whose_own_token_goes_gets_one_of_ours(plane: OperatorPlane) -> None:
    meta = {"name": "agentops-memory", "namespace": NAMESPACE, "labels": {labels.COMPONENT: "memory"}}
    token = {"name": "agentops-memory-token", "namespace": NAMESPACE}
    await plane.create({"apiVersion": "v1", "kind": "Secret", "metadata": token, "stringData": {"token": "mine"}})
    await plane.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 7437}]}})
    await plane.create(provider_object(), agent_object(memory={"serverRef": "agentops-memory"}))
    await plane.start_daemon()
    assert decode_value((await plane.get(SECRET, "agentops-memory-token"))["data"]["token"]) == b"mine"
    await plane.client.delete(SECRET, "agentops-memory-token", NAMESPACE)
    made = await plane.until(SECRET, "agentops-memory-token", lambda obj: obj["metadata"].get("ownerReferences"))
    assert decode_value(made["data"]["token"]) != b"mine"


async def test_a_token_that_is_deleted_is_made_anew_and_rolls_the_pod(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    await plane.start_daemon()
    before = await plane.get(DEPLOYMENT, "hello")
    assert await plane.quiet() == []
    await plane.client.delete(SECRET, "hello-token", NAMESPACE)
    await plane.until(DEPLOYMENT, "hello", lambda obj: template_hash(obj) != template_hash(before))


async def test_clamped_security_and_idle_fields_are_told(plane: OperatorPlane) -> None:
    await plane.create(
        provider_object(),
        agent_object(
            security={"container": {"privileged": True}},
            concurrency={"maxRuns": 3},
            permissionTools=["bash"],
            env={"AGENT_NAME": "somebody-else"},
        ),
    )
    found = await plane.until(AGENT, "hello", has("SecurityPolicyViolations", "True", "OverridesClamped"))
    assert "container.privileged=true" in condition(found, "SecurityPolicyViolations")["message"]
    idle = condition(found, "FieldsNotInEffect")
    assert idle["status"] == "True"
    assert "spec.concurrency.maxRuns" in idle["message"]
    assert "spec.permissionTools" in idle["message"]
    assert "spec.env.AGENT_NAME" in idle["message"]


async def test_a_changed_size_is_told_because_a_claim_keeps_its_own(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(storage={"size": "1Gi"}))
    await plane.start_daemon()
    await plane.patch(AGENT, "hello", {"spec": {"storage": {"size": "2Gi"}}})
    found = await plane.until(AGENT, "hello", has("StorageReady", "False", "SizeFixed"))
    assert "2Gi" in condition(found, "StorageReady")["message"]


async def test_an_edit_that_drops_storage_keeps_the_claim_for_when_it_comes_back(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(storage={"size": "1Gi"}))
    await plane.start_daemon()
    claim = await plane.get(PVC, "hello-storage")
    await plane.patch(AGENT, "hello", {"spec": {"storage": None}})
    found = await plane.until(AGENT, "hello", has("StorageReady", "False", "ClaimKept"))
    await plane.start_daemon()
    assert "PersistentVolumeClaim agents/hello-storage" in condition(found, "StorageReady")["message"]
    assert "kubectl delete pvc hello-storage -n agents" in condition(found, "StorageReady")["message"]
    settled = await plane.get(AGENT, "hello")
    assert "storagePVC" not in settled["status"]
    assert "PersistentVolumeClaim" not in settled["status"]["linkedResources"]
    assert await plane.quiet() == []
    kept = await plane.get(PVC, "hello-storage")
    assert (kept["metadata"]["uid"], kept["metadata"].get("deletionTimestamp")) == (claim["metadata"]["uid"], None)
    assert kept["metadata"]["ownerReferences"][0]["name"] == "hello", "it would outlive its Agent"
    assert (await plane.event_reasons("hello")).count("ClaimKept") == 1
    await plane.patch(AGENT, "hello", {"spec": {"storage": {"size": "1Gi"}}})
    await plane.until(AGENT, "hello", has("StorageReady", "True", "Claimed"))
    await plane.start_daemon()
    assert (await plane.get(PVC, "hello-storage"))["metadata"]["uid"] == claim["metadata"]["uid"]
    assert (await plane.get(AGENT, "hello"))["status"]["storagePVC"] == "hello-storage"


async def test_a_kept_claim_that_somebody_deletes_is_told_no_longer(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(storage={"size": "1Gi"}))
    await plane.start_daemon()
    await plane.patch(AGENT, "hello", {"spec": {"storage": None}})
    await plane.until(AGENT, "hello", has("StorageReady", "False", "ClaimKept"))
    await plane.client.delete(PVC, "hello-storage", NAMESPACE)
    await plane.until(AGENT, "hello", lambda obj: not condition(obj, "StorageReady"))


async def test_adding_storage_later_switches_to_recreate(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    await plane.start_daemon()
    await plane.patch(AGENT, "hello", {"spec": {"storage": {"size": "1Gi"}}})
    found = await plane.until(
        DEPLOYMENT, "hello", lambda obj: obj["spec"].get("strategy", {}).get("type") == "Recreate"
    )
    assert "rollingUpdate" not in found["spec"]["strategy"]
    await plane.start_daemon()


async def test_deleting_an_agent_takes_its_children_along(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object())
    await plane.start_daemon()
    await plane.client.delete(AGENT, "hello", NAMESPACE)
    for kind, name in (
        (DEPLOYMENT, "hello"),
        (SERVICE, "hello"),
        (SECRET, "hello-token"),
        (CONFIG_MAP, "hello-config"),
    ):
        await plane.gone(kind, name)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (AGENT_TOOL, {"inline": {"content": "x"}}),
        (AGENT_RESOURCE, {"kind": "documentation", "displayName": "Docs", "documentation": {"urls": ["http://x"]}}),
        (
            CHANNEL,
            {
                "type": "telegram",
                "agentRef": "hello",
                "image": "x",
                "telegram": {"botTokenSecret": {"name": "a", "key": "b"}},
            },
        ),
    ],
)
async def test_kinds_without_behaviour_say_so(plane: OperatorPlane, kind: Any, spec: dict[str, Any]) -> None:
    meta = {"name": "x", "namespace": NAMESPACE}
    await plane.create({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec})
    found = await plane.until(kind, "x", has("FieldsNotInEffect", "True"))
    assert phase(found) == "Pending"
    assert kind.kind in condition(found, "FieldsNotInEffect")["message"]
    assert found["status"]["observedGeneration"] == 1
