"""The real kubectl as the judge, over TLS."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from support.apiserver import PODS, Api, deployment, pod, widget, widget_crd

pytestmark = pytest.mark.anyio


def yaml(*objects: dict[str, Any]) -> str:
    return "\n---\n".join(json.dumps(o) for o in objects)


@pytest.fixture
async def widgets(cluster: Any) -> Any:
    await cluster.kubectl("apply", "-f", "-", stdin=yaml(widget_crd()))
    await cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.test.example.com", "--timeout=10s")
    return cluster


async def test_it_knows_the_version_and_who_it_is(cluster: Any) -> None:
    version = await cluster.kubectl("version")
    assert "v1.37.0+agentops-local" in version.stdout
    assert "agentops-local-admin" in (await cluster.kubectl("auth", "whoami")).stdout
    assert (await cluster.kubectl("auth", "can-i", "create", "pods")).stdout == "yes\n"
    assert "deployments" in (await cluster.kubectl("api-resources")).stdout


async def test_apply_twice_says_unchanged_and_diff_is_silent(widgets: Any) -> None:
    objects = yaml(deployment("web"), widget("w"))
    first = await widgets.kubectl("apply", "-f", "-", stdin=objects)
    assert first.stdout.count("created") == 2
    second = await widgets.kubectl("apply", "-f", "-", stdin=objects)
    assert second.stdout.count("unchanged") == 2
    assert second.stderr == ""
    assert (await widgets.kubectl("diff", "-f", "-", stdin=objects)).stdout == ""
    changed = yaml(deployment("web", "agentops:2"), widget("w", replicas=2))
    different = await widgets.kubectl("diff", "-f", "-", stdin=changed, ok=False)
    assert different.returncode == 1
    third = await widgets.kubectl("apply", "-f", "-", stdin=changed)
    assert third.stdout.count("configured") == 2


async def test_get_describe_and_explain_read_well(widgets: Any) -> None:
    await widgets.kubectl("apply", "-f", "-", stdin=yaml(deployment("web"), widget("w")))
    assert "REPLICAS" in (await widgets.kubectl("get", "wd")).stdout
    assert "widget.test.example.com/w" in (await widgets.kubectl("get", "all")).stdout
    assert "RollingUpdate" in (await widgets.kubectl("describe", "deployment", "web")).stdout
    assert "Generation:" in (await widgets.kubectl("describe", "wd", "w")).stdout
    assert "replicas <integer>" in (await widgets.kubectl("explain", "deployment.spec.replicas")).stdout
    assert "enum: daemon, task" in (await widgets.kubectl("explain", "widget.spec")).stdout


async def test_patches_labels_scale_and_status(widgets: Any) -> None:
    await widgets.kubectl("apply", "-f", "-", stdin=yaml(deployment("web"), widget("w")))
    await widgets.kubectl("label", "deployment", "web", "a=b")
    await widgets.kubectl("annotate", "wd", "w", "c=d")
    await widgets.kubectl("scale", "deployment", "web", "--replicas=4")
    await widgets.kubectl("scale", "wd", "w", "--replicas=3")
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "agentops:3"}]}}}}
    await widgets.kubectl("patch", "deployment", "web", "-p", json.dumps(image))
    await widgets.kubectl("patch", "wd", "w", "--type=merge", "--subresource=status", "-p", '{"status":{"phase":"Up"}}')
    await widgets.kubectl("wait", "wd/w", "--for=jsonpath={.status.phase}=Up", "--timeout=5s")
    live = await widgets.json("deployment", "web")
    assert (live["spec"]["replicas"], live["metadata"]["labels"]) == (4, {"a": "b"})
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "agentops:3"
    strategic = await widgets.kubectl("patch", "wd", "w", "-p", "{}", ok=False)
    assert "application/strategic-merge-patch+json is not supported" in strategic.stderr


async def test_refusals_read_as_on_a_cluster(widgets: Any) -> None:
    bad = await widgets.kubectl("apply", "-f", "-", stdin=yaml(widget("w", nosuch=1)), ok=False)
    assert 'strict decoding error: unknown field "spec.nosuch"' in bad.stderr
    short = await widgets.kubectl("apply", "-f", "-", stdin=yaml(widget("w", model="x")), ok=False)
    assert 'spec.model: Invalid value: "x": spec.model in body should be at least 2 chars long' in short.stderr
    missing = await widgets.kubectl("get", "wd", "nope", ok=False)
    assert missing.stderr == 'Error from server (NotFound): widgets.test.example.com "nope" not found\n'


async def test_server_side_apply_and_its_migration(widgets: Any) -> None:
    objects = yaml(deployment("web"), widget("w"))
    await widgets.kubectl("apply", "-f", "-", stdin=objects)
    await widgets.kubectl("apply", "--server-side", "-f", "-", stdin=objects)
    again = await widgets.kubectl("apply", "--server-side", "-f", "-", stdin=objects)
    assert again.stdout.count("serverside-applied") == 2
    other = yaml(widget("w", mode="task"))
    await widgets.kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=other)
    third = yaml(widget("w", mode="daemon"))
    conflict = await widgets.kubectl("apply", "--server-side", "-f", "-", stdin=third, ok=False)
    assert 'conflict with "other": .spec.mode' in conflict.stderr
    await widgets.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=third)
    assert (await widgets.json("wd", "w"))["spec"]["mode"] == "daemon"


async def test_the_create_family_speaks_protobuf(cluster: Any) -> None:
    for command in (
        "create configmap a --from-literal=k=v",
        "create secret generic a --from-literal=k=v",
        "create namespace other",
        "create serviceaccount a",
        "create deployment a --image=i --replicas=0",
        "create job a --image=i",
        "create cronjob a --image=i --schedule=@hourly",
        "create role a --verb=get --resource=pods",
        "create rolebinding a --role=a --serviceaccount=default:a",
        "create clusterrole a --verb=get --resource=pods",
        "create clusterrolebinding a --clusterrole=a --user=joe",
        "create ingress a --rule=a.b/x=svc:80",
        "create poddisruptionbudget a --selector=a=b --min-available=1",
        "create quota a --hard=pods=1",
        "create service clusterip a --tcp=80:8080",
        "create priorityclass a --value=10",
        "run a --image=i",
        "create token a",
        "auth can-i --list",
    ):
        await cluster.kubectl(*command.split())
    assert (await cluster.json("deployment", "a"))["spec"]["replicas"] == 0
    assert (await cluster.json("service", "a"))["spec"]["ports"][0]["targetPort"] == 8080
    assert (await cluster.json("ingress", "a"))["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"][
        "name"
    ] == "svc"


async def test_delete_waits_for_finalizers(widgets: Any) -> None:
    body = widget("held")
    body["metadata"]["finalizers"] = ["x.io/f"]
    await widgets.kubectl("apply", "-f", "-", stdin=yaml(body))
    async with anyio.create_task_group() as tasks:
        finished = anyio.Event()

        async def delete() -> None:
            await widgets.kubectl("delete", "wd", "held", "--timeout=20s")
            finished.set()

        tasks.start_soon(delete)
        await widgets.kubectl("wait", "wd/held", "--for=jsonpath={.metadata.deletionTimestamp}", "--timeout=10s")
        assert not finished.is_set()
        await widgets.kubectl("patch", "wd", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert finished.is_set()


async def test_a_crd_goes_with_its_objects(widgets: Any) -> None:
    await widgets.kubectl("apply", "-f", "-", stdin=yaml(widget("w")))
    await widgets.kubectl("delete", "crd", "widgets.test.example.com", "--timeout=20s")
    gone = await widgets.kubectl("get", "wd", ok=False)
    assert gone.returncode != 0


async def test_rollout_restart_edit_replace_and_set_image(cluster: Any) -> None:
    await cluster.kubectl("apply", "-f", "-", stdin=yaml(deployment("web")))
    await cluster.kubectl("rollout", "restart", "deployment/web")
    await cluster.kubectl("set", "image", "deployment/web", "main=agentops:9")
    live = await cluster.json("deployment", "web")
    assert "kubectl.kubernetes.io/restartedAt" in live["spec"]["template"]["metadata"]["annotations"]
    live["spec"]["replicas"] = 7
    await cluster.kubectl("replace", "-f", "-", stdin=yaml(live))
    assert (await cluster.json("deployment", "web"))["spec"]["replicas"] == 7


async def test_a_job_made_from_a_cron_job_has_every_field_of_its_pods(cluster: Any) -> None:
    """kubectl sends that job as protobuf: a field the decoder does not know is a field lost."""
    key = {"name": "n", "key": "k", "optional": False}
    probe = {"httpGet": {"port": "http", "path": "/x", "scheme": "HTTP", "httpHeaders": [{"name": "a", "value": "b"}]},
             "periodSeconds": 7, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 9,
             "terminationGracePeriodSeconds": 4}  # fmt: skip
    term = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "zone", "namespaceSelector": {},
            "matchLabelKeys": ["x"]}  # fmt: skip
    container = {
        "name": "main", "image": "agentops:1", "imagePullPolicy": "Never", "terminationMessagePath": "/t",
        "terminationMessagePolicy": "FallbackToLogsOnError", "workingDir": "/w", "tty": True, "stdin": True,
        "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": key}},
            {"name": "B", "valueFrom": {"configMapKeyRef": key}},
            {"name": "C", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "D", "valueFrom": {"resourceFieldRef": {"containerName": "main", "resource": "limits.cpu",
                                                             "divisor": "1m"}}},
        ],
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": True}}],
        "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}},
        "volumeMounts": [{"name": "p", "mountPath": "/p", "subPath": "s", "readOnly": True},
                         {"name": "e", "mountPath": "/e", "subPathExpr": "$(A)"}],
        "livenessProbe": probe, "startupProbe": {**probe, "terminationGracePeriodSeconds": 5},
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 1,
                           "successThreshold": 2, "failureThreshold": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
        "securityContext": {"runAsUser": 0, "privileged": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    spec = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False,
        "enableServiceLinks": False, "dnsPolicy": "Default", "schedulerName": "s", "nodeSelector": {"a": "b"},
        "serviceAccountName": "sa", "serviceAccount": "sa", "hostname": "h", "priorityClassName": "high",
        "securityContext": {"fsGroup": 0, "runAsNonRoot": True, "supplementalGroups": [1, 2],
                            "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}},
        "imagePullSecrets": [{"name": "pull"}], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x"]}],
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
                                       "labelSelector": {"matchLabels": {"a": "b"}}, "minDomains": 2}],
        "readinessGates": [{"conditionType": "x/y"}], "schedulingGates": [{"name": "x/y"}], "os": {"name": "linux"},
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "initContainers": [{**container, "name": "side", "restartPolicy": "Always"}],
        "containers": [container],
        "volumes": [
            {"name": "p", "projected": {"defaultMode": 256, "sources": [
                {"serviceAccountToken": {"audience": "a", "expirationSeconds": 600, "path": "t"}},
                {"configMap": {"name": "c", "optional": True, "items": [{"key": "a", "path": "b", "mode": 0}]}},
                {"secret": {"name": "c", "items": [{"key": "a", "path": "c"}]}},
                {"downwardAPI": {"items": [{"path": "d", "fieldRef": {"apiVersion": "v1",
                                                                     "fieldPath": "metadata.labels"}}]}}]}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
            {"name": "csi", "csi": {"driver": "d", "volumeAttributes": {"a": "b"}}},
        ],
    }  # fmt: skip
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 4]}}]}
    job = {"template": {"spec": spec}, "backoffLimit": 0, "podFailurePolicy": policy, "ttlSecondsAfterFinished": 0}
    cron = {
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"schedule": "1 1 1 1 *", "jobTemplate": {"spec": job}},
    }  # fmt: skip
    await cluster.kubectl("apply", "-f", "-", stdin=yaml(cron))
    await cluster.kubectl("create", "job", "j", "--from=cronjob/c")
    stored = (await cluster.json("cronjob", "c"))["spec"]["jobTemplate"]["spec"]
    made = (await cluster.json("job", "j"))["spec"]
    assert stored["template"]["spec"]["volumes"] == spec["volumes"]
    assert made["template"]["spec"] == stored["template"]["spec"]
    for field in ("backoffLimit", "podFailurePolicy", "ttlSecondsAfterFinished"):
        assert made[field] == job[field]


class Dialler:
    """A kubelet that knows where each pod's ports are: on this machine."""

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", port


async def test_port_forward_carries_connections_side_by_side(cluster: Any) -> None:
    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.send((await stream.receive()).upper() * 10_000)

    cluster.server.node = Dialler()
    api = Api(cluster.server)
    await api.post(PODS, pod("p", nodeName="n"))
    await api.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}})
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with cluster.running("port-forward", "pod/p", f":{port}") as lines:
            local = int((await anext(lines)).split(":")[1].split(" ")[0])

            async def ask(word: bytes) -> None:
                async with await anyio.connect_tcp("127.0.0.1", local) as stream:
                    await stream.send(word)
                    said = b"".join([chunk async for chunk in stream])
                assert said == word.upper() * 10_000

            with anyio.fail_after(30):
                async with anyio.create_task_group() as clients:
                    for number in range(10):
                        clients.start_soon(ask, f"w{number}.".encode())
        tasks.cancel_scope.cancel()


async def test_prune_deletes_what_the_manifests_no_longer_name(cluster: Any, tmp_path: Any) -> None:
    def labelled(name: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "one"}}}

    prune = ("apply", "--prune", "-l", "set=one", "-f", "-")
    await cluster.kubectl(*prune, stdin=yaml(labelled("kept"), labelled("dropped")))
    assert "configmap/dropped pruned" in (await cluster.kubectl(*prune, stdin=yaml(labelled("kept")))).stdout
    await cluster.kubectl("cluster-info", "dump", "--output-directory", str(tmp_path / "dump"))
    assert (tmp_path / "dump" / "default" / "replication-controllers.json").is_file()
