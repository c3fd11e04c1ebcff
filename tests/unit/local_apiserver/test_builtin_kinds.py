"""Defaults, allocation and immutability of the built-in kinds."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest
from support.apiserver import CONFIG_MAPS, DEPLOYMENTS, PODS, Api, ManualClock, config_map, deployment, make_server, pod

pytestmark = pytest.mark.anyio

SERVICES = "/api/v1/namespaces/default/services"
SECRETS = "/api/v1/namespaces/default/secrets"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PVCS = "/api/v1/namespaces/default/persistentvolumeclaims"
EVENTS = "/api/v1/namespaces/default/events"
EVENTS_V1 = "/apis/events.k8s.io/v1/namespaces/default/events"


def service(name: str, **spec: Any) -> dict[str, Any]:
    body = {"ports": [{"port": 80}], "selector": {"app": name}, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def job(name: str, **spec: Any) -> dict[str, Any]:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "agentops:1"}]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


async def test_a_deployment_is_defaulted(api: Api) -> None:
    body = deployment("web", "agentops")
    container = body["spec"]["template"]["spec"]["containers"][0]
    container["readinessProbe"] = {"httpGet": {"port": 80}}
    container["ports"] = [{"containerPort": 80}]
    container["env"] = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    spec = (await api.post(DEPLOYMENTS, body)).body["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    pods = spec["template"]["spec"]
    assert pods["restartPolicy"] == "Always"
    assert pods["terminationGracePeriodSeconds"] == 30
    made = pods["containers"][0]
    assert made["imagePullPolicy"] == "Always"
    assert made["terminationMessagePath"] == "/dev/termination-log"
    assert made["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert made["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert made["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


async def test_a_deployments_selector_is_immutable_and_must_match(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("web"))
    change = {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}
    reply = await api.patch(f"{DEPLOYMENTS}/web", {"spec": change})
    assert reply.status == 422
    assert "field is immutable" in reply.message
    wrong = deployment("other")
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "nobody"}
    assert "`selector` does not match template `labels`" in (await api.post(DEPLOYMENTS, wrong)).message


async def test_required_fields_of_built_ins_are_named(api: Api) -> None:
    body = deployment("web")
    del body["spec"]["template"]["spec"]["containers"][0]["image"]
    reply = await api.post(DEPLOYMENTS, body)
    assert "spec.template.spec.containers[0].image: Required value" in reply.message
    unmounted = pod("p")
    unmounted["spec"]["containers"][0]["volumeMounts"] = [{"name": "nope", "mountPath": "/x"}]
    assert 'spec.containers[0].volumeMounts[0].name: Not found: "nope"' in (await api.post(PODS, unmounted)).message


async def test_a_pod_gets_an_account_a_token_and_tolerations() -> None:
    server = make_server(ManualClock(), require_service_account=True)
    api = Api(server)
    early = await api.post(PODS, pod("p"))
    assert early.status == 403
    assert 'serviceaccount "default" not found' in early.message
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await api.post("/api/v1/namespaces/default/serviceaccounts", account)
    body = (await api.post(PODS, pod("p"))).body
    spec = body["spec"]
    assert spec["serviceAccountName"] == "default"
    mount = spec["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    volume = spec["volumes"][0]
    assert volume["name"] == mount["name"]
    assert volume["name"].startswith("kube-api-access-")
    assert volume["projected"]["sources"][0] == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    assert [t["tolerationSeconds"] for t in spec["tolerations"]] == [300, 300]
    assert (spec["priority"], spec["enableServiceLinks"]) == (0, True)
    assert body["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert body["metadata"]["generation"] == 1
    bare = (await api.post(PODS, pod("q", automountServiceAccountToken=False))).body
    assert "volumes" not in bare["spec"]
    server.close()


async def test_a_scheduled_pod_is_deleted_gracefully_and_an_unscheduled_one_at_once(api: Api) -> None:
    await api.post(PODS, pod("waiting"))
    assert (await api.delete(f"{PODS}/waiting")).body["kind"] == "Pod"
    assert (await api.get(f"{PODS}/waiting")).status == 404
    await api.post(PODS, pod("running", nodeName="n"))
    first = (await api.delete(f"{PODS}/running")).body["metadata"]
    assert (first["deletionTimestamp"], first["deletionGracePeriodSeconds"]) == ("2026-01-01T00:00:30Z", 30)
    shorter = (await api.delete(f"{PODS}/running", {"gracePeriodSeconds": 5})).body["metadata"]
    assert (shorter["deletionTimestamp"], shorter["deletionGracePeriodSeconds"]) == ("2026-01-01T00:00:05Z", 5)
    longer = (await api.delete(f"{PODS}/running", {"gracePeriodSeconds": 60})).body["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 5
    await api.delete(f"{PODS}/running", {"gracePeriodSeconds": 0, "preconditions": {"uid": first["uid"]}})
    assert (await api.get(f"{PODS}/running")).status == 404


async def test_a_pods_spec_is_nearly_immutable(api: Api) -> None:
    await api.post(PODS, pod("p"))
    reply = await api.patch(f"{PODS}/p", {"spec": {"hostname": "x"}})
    assert "pod updates may not change fields other than" in reply.message
    image = await api.patch(
        f"{PODS}/p", {"spec": {"containers": [{"name": "main", "image": "agentops:2"}]}}, "strategic"
    )
    assert image.status == 200


async def test_binding_puts_a_pod_on_a_node_once(api: Api) -> None:
    await api.post(PODS, pod("p"))
    target = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"},
    }
    assert (await api.post(f"{PODS}/p/binding", target)).status == 201
    live = (await api.get(f"{PODS}/p")).body
    assert live["spec"]["nodeName"] == "n1"
    assert live["status"]["conditions"][0]["type"] == "PodScheduled"
    again = await api.post(f"{PODS}/p/binding", target)
    assert (again.status, again.reason) == (409, "Conflict")


async def test_eviction_deletes_the_pod(api: Api) -> None:
    await api.post(PODS, pod("p"))
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    assert (await api.post(f"{PODS}/p/eviction", body)).status == 201
    assert (await api.get(f"{PODS}/p")).status == 404


async def test_services_get_addresses_of_the_range_and_keep_them(api: Api) -> None:
    body = (await api.post(SERVICES, service("web"))).body
    spec = body["spec"]
    assert ipaddress.ip_address(spec["clusterIP"]) in ipaddress.ip_network("127.96.0.0/16")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["sessionAffinity"], spec["ipFamilyPolicy"]) == ("ClusterIP", "None", "SingleStack")
    assert body["status"] == {"loadBalancer": {}}
    again = await api.put(f"{SERVICES}/web", service("web"))
    assert again.body["spec"]["clusterIP"] == spec["clusterIP"]
    moved = await api.patch(f"{SERVICES}/web", {"spec": {"clusterIP": "127.96.7.7", "clusterIPs": ["127.96.7.7"]}})
    assert moved.status == 422
    taken = await api.post(SERVICES, service("two", clusterIP=spec["clusterIP"]))
    assert "provided IP is already allocated" in taken.message
    headless = await api.post(SERVICES, service("three", clusterIP="None"))
    assert headless.body["spec"]["clusterIP"] == "None"
    named = await api.post(SERVICES, service("1web"))
    assert "a DNS-1035 label must consist of" in named.message


async def test_default_kubernetes_leads_to_the_advertised_port() -> None:
    server = make_server(port=7777)
    api = Api(server)
    found = (await api.get(f"{SERVICES}/kubernetes")).body["spec"]
    assert (found["clusterIP"], found["ports"][0]["port"]) == ("127.96.0.1", 7777)
    endpoints = (await api.get("/api/v1/namespaces/default/endpoints/kubernetes")).body
    assert endpoints["subsets"][0]["ports"][0]["port"] == 7777
    revision = server.store.revision
    server.bootstrap()
    assert server.store.revision == revision
    server.close()


async def test_secrets_take_plain_text_and_immutable_ones_stay(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}}
    made = (await api.post(SECRETS, body)).body
    assert made["data"] == {"k": base64.b64encode(b"v").decode()}
    assert made["type"] == "Opaque"
    assert "stringData" not in made
    bad = await api.post(SECRETS, {**body, "metadata": {"name": "t"}, "data": {"k": "not base64!"}})
    assert bad.status == 400
    frozen = config_map("c", k="1")
    frozen["immutable"] = True
    await api.post(CONFIG_MAPS, frozen)
    reply = await api.patch(f"{CONFIG_MAPS}/c", {"data": {"k": "2"}})
    assert "data: Forbidden: field is immutable when `immutable` is set" in reply.message


async def test_a_job_gets_its_selector_and_four_labels(api: Api) -> None:
    body = (await api.post(JOBS, job("j"))).body
    uid = body["metadata"]["uid"]
    spec = body["spec"]
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    expected = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }
    assert body["metadata"]["labels"] == expected
    assert spec["template"]["metadata"]["labels"] == expected
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"], spec["suspend"]) == (1, 1, 6, False)
    assert spec["podReplacementPolicy"] == "TerminatingOrFailed"
    changed = await api.patch(
        f"{JOBS}/j", {"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}}, "strategic"
    )
    assert "spec.template" in changed.message
    assert changed.status == 422
    again = await api.patch(f"{JOBS}/j", {"spec": {"backoffLimit": 3}})
    assert again.status == 200
    always = job("k")
    always["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    refused = (await api.post(JOBS, always)).message
    assert 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"' in refused


async def test_a_claim_waits_and_its_spec_stays(api: Api) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    standard = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "std", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "x",
    }
    await api.post("/apis/storage.k8s.io/v1/storageclasses", standard)
    body = (await api.post(PVCS, claim)).body
    assert body["spec"]["storageClassName"] == "std"
    assert body["status"] == {"phase": "Pending"}
    assert body["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    reply = await api.patch(f"{PVCS}/c", {"spec": {"accessModes": ["ReadWriteMany"]}})
    assert "spec is immutable after creation except" in reply.message
    assert (await api.patch(f"{PVCS}/c", {"spec": {"volumeName": "pv1"}})).status == 200


async def test_a_bindings_role_never_changes(api: Api) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:x"},
        "roleRef": {"kind": "ClusterRole", "name": "a", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "default"}],
    }
    assert (await api.post(path, body)).status == 201
    reply = await api.patch(f"{path}/system:x", {"roleRef": {"name": "b"}})
    assert "cannot change roleRef" in reply.message


async def test_events_of_both_groups_are_one(api: Api) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"}
    core = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e1"},
        "involvedObject": involved,
        "reason": "Started",
        "message": "hello",
        "type": "Normal",
        "source": {"component": "kubelet"},
        "count": 2,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    assert (await api.post(EVENTS, core)).status == 201
    seen = (await api.get(f"{EVENTS_V1}/e1")).body
    assert (seen["apiVersion"], seen["note"], seen["regarding"]["name"]) == ("events.k8s.io/v1", "hello", "p")
    assert seen["deprecatedCount"] == 2
    new = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e2"},
        "regarding": involved,
        "reason": "Pulled",
        "note": "pulled",
        "type": "Normal",
        "action": "Pull",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "agentops/kubelet",
        "reportingInstance": "local",
    }
    made = await api.post(EVENTS_V1, new)
    assert made.status == 201, made
    old = (await api.get(f"{EVENTS}/e2")).body
    assert (old["message"], old["involvedObject"]["name"]) == ("pulled", "p")
    assert old["reportingComponent"] == "agentops/kubelet"
    chosen = await api.get(f"{EVENTS}?fieldSelector=involvedObject.name=p,reason=Pulled")
    assert [i["metadata"]["name"] for i in chosen.body["items"]] == ["e2"]


async def test_events_expire_after_an_hour(api: Api, clock: ManualClock) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": "default"}
    body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": involved}
    await api.post(EVENTS, body)
    clock.advance(3500)
    api.server._housekeeping.step(0)
    assert (await api.get(f"{EVENTS}/e")).status == 200
    clock.advance(200)
    api.server._housekeeping.step(30)
    assert (await api.get(f"{EVENTS}/e")).status == 404


async def test_two_controlling_owners_are_refused(api: Api) -> None:
    body = config_map("a")
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}
    body["metadata"]["ownerReferences"] = [owner, {**owner, "name": "q", "uid": "w"}]
    reply = await api.post(CONFIG_MAPS, body)
    assert "Only one reference can have Controller set to true" in reply.message


async def test_built_in_status_goes_through_status(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("web"))
    await api.patch(f"{DEPLOYMENTS}/web", {"status": {"replicas": 3}})
    assert "replicas" not in ((await api.get(f"{DEPLOYMENTS}/web")).body.get("status") or {})
    reply = await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 3}, "spec": {"replicas": 9}})
    assert (reply.body["status"]["replicas"], reply.body["spec"]["replicas"]) == (3, 1)


async def test_pod_conditions_merge_by_type(api: Api) -> None:
    await api.post(PODS, pod("p"))
    for kind in ("Ready", "Initialized"):
        condition = {"type": kind, "status": "True"}
        await api.patch(f"{PODS}/p/status", {"status": {"conditions": [condition]}}, "strategic")
    live = (await api.get(f"{PODS}/p")).body
    assert [c["type"] for c in live["status"]["conditions"]] == ["Ready", "Initialized"]


async def test_the_default_namespaces_cannot_be_deleted(api: Api) -> None:
    reply = await api.delete("/api/v1/namespaces/default")
    assert (reply.status, reply.message) == (
        403,
        'namespaces "default" is forbidden: this namespace may not be deleted',
    )


def replication_controller(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "agentops:1"}]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
    return {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


REPLICATION_CONTROLLERS = "/api/v1/namespaces/default/replicationcontrollers"


async def test_a_replication_controller_selects_by_its_templates_labels_and_scales(api: Api) -> None:
    made = await api.post(REPLICATION_CONTROLLERS, replication_controller("old"))
    assert made.status == 201, made.message
    assert made.body["spec"]["selector"] == made.body["metadata"]["labels"] == {"app": "old"}
    assert (made.body["spec"]["replicas"], made.body["status"]) == (1, {"replicas": 0})
    scale = await api.get(f"{REPLICATION_CONTROLLERS}/old/scale")
    assert scale.body["status"] == {"replicas": 0, "selector": "app=old"}
    await api.patch(f"{REPLICATION_CONTROLLERS}/old/scale", {"spec": {"replicas": 3}})
    table = await api.get(REPLICATION_CONTROLLERS, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    columns = [c["name"] for c in table.body["columnDefinitions"] if not c["priority"]]
    assert columns == ["Name", "Desired", "Current", "Ready", "Age"]
    assert table.body["rows"][0]["cells"][:4] == ["old", 3, 0, 0]
    assert table.body["rows"][0]["cells"][-1] == "app=old"
    listed = (await api.get("/api/v1")).body["resources"]
    found = next(r for r in listed if r["name"] == "replicationcontrollers")
    assert (found["shortNames"], found["categories"]) == (["rc"], ["all"])


async def test_a_replication_controllers_selector_must_match_but_may_change(api: Api) -> None:
    wrong = await api.post(REPLICATION_CONTROLLERS, replication_controller("x", selector={"app": "nobody"}))
    assert wrong.status == 422
    assert "`selector` does not match template `labels`" in wrong.message
    bare = replication_controller("x")
    del bare["spec"]["template"]["metadata"]
    assert "spec.selector: Required value" in (await api.post(REPLICATION_CONTROLLERS, bare)).message
    await api.post(REPLICATION_CONTROLLERS, replication_controller("x"))
    change = {"selector": {"app": "y"}, "template": {"metadata": {"labels": {"app": "y"}}}}
    assert (await api.patch(f"{REPLICATION_CONTROLLERS}/x", {"spec": change})).status == 200
