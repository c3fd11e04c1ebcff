"""What `kubectl apply -k` would send: valid for a real cluster, of this version, under restricted Pod Security."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.pod_security import violations

from agentops import __version__
from agentops.api.kinds import ALL
from agentops.operator.objects.network_policy import network_policy
from agentops.values.quantity import parse_quantity

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="comes with the extra `local`")

ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = ["manifests", "manifests/overlays/default", "manifests/overlays/local", "manifests/overlays/kind"]


def rendered(path: str) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    assert kubectl, "kubectl comes with the extra `local`"
    done = subprocess.run([kubectl, "kustomize", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "Deployment"]


@pytest.mark.parametrize("path", OVERLAYS)
def test_every_object_is_valid_on_a_cluster(path: str) -> None:
    for obj in rendered(path):
        if obj["kind"] != "CustomResourceDefinition":
            kubernetes_validate.validate(obj, "1.37", strict=True)


@pytest.mark.parametrize("path", OVERLAYS)
def test_there_are_no_custom_resources_and_no_namespace_but_ours(path: str) -> None:
    objects = rendered(path)
    assert not {o["kind"] for o in objects} & {kind.kind for kind in ALL}
    assert {o["metadata"]["namespace"] for o in objects if "namespace" in o["metadata"]} == {"agent-system", "agents"}


def test_every_image_is_this_version_and_every_pod_sets_args_only() -> None:
    for pod in pods(rendered("manifests/overlays/local")):
        for container in pod["containers"]:
            assert container["image"] == f"agentops:{__version__}"
            assert container["imagePullPolicy"] == "IfNotPresent"
            assert container["args"] and "command" not in container


@pytest.mark.parametrize("path", OVERLAYS)
def test_every_pod_is_restricted_and_its_disk_bounded(path: str) -> None:
    for pod in pods(rendered(path)):
        assert violations(pod) == []
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            resources = container["resources"]
            for name, asked in resources["requests"].items():
                limit = resources["limits"].get(name)
                assert limit is None or parse_quantity(asked) <= parse_quantity(limit), (container["name"], name)
            assert {"cpu", "memory"} <= set(resources["requests"]), container["name"]
            assert "memory" in resources["limits"], container["name"]
        for volume in pod["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], volume["name"]


def test_the_network_policies_let_in_who_has_to_and_nobody_else(tmp_path: Path) -> None:
    component = os.path.relpath(ROOT / "manifests/components/networkpolicy", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"components: [{component}]\n")
    policies = {o["metadata"]["name"]: o for o in rendered(str(tmp_path))}
    assert set(policies) == {"agentops-agents", "agentops-tasks", "agentops-memory"}
    for policy in policies.values():
        kubernetes_validate.validate(policy, "1.37", strict=True)
        assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert "ingress" not in policies["agentops-tasks"]["spec"]
    of_agent = network_policy("hello", "agents", "daemon", "agent-system")["spec"]
    assert policies["agentops-agents"]["spec"]["ingress"] == of_agent["ingress"], "what one lets in undoes the other"

    pods = {o["metadata"]["name"]: o["spec"]["template"]["metadata"] for o in deployments("manifests/overlays/local")}
    memory, operator = pods["agentops-memory"]["labels"], pods["agentops-operator"]["labels"]
    runtime = {"agents.agentops.io/component": "runtime", "agents.agentops.io/agent": "hello"}
    task = {"agents.agentops.io/component": "task-run"}
    stranger = {"app": "web"}
    system, agents = {"kubernetes.io/metadata.name": "agent-system"}, {"kubernetes.io/metadata.name": "agents"}
    scraping = {"agents.agentops.io/metrics": "enabled"}
    for name, target, port, allowed in (
        ("agentops-agents", runtime, 4096, [(system, operator), (scraping, stranger)]),
        (
            "agentops-memory",
            memory,
            7437,
            [(agents, runtime), (agents, task), (system, operator), (scraping, stranger)],
        ),
    ):
        spec = policies[name]["spec"]
        assert selects(spec["podSelector"], target)
        (rule,) = spec["ingress"]
        assert rule["ports"] == [{"port": port, "protocol": "TCP"}]
        everybody = [
            (namespace, pod) for namespace in (system, agents, scraping) for pod in (operator, runtime, task, stranger)
        ]
        let_in = [pair for pair in everybody if any(admits(peer, *pair) for peer in rule["from"])]
        wanted = [*allowed, *((scraping, pod) for pod in (operator, runtime, task))]
        assert sorted(map(str, let_in)) == sorted(map(str, wanted))


def deployments(path: str) -> list[dict[str, Any]]:
    return [o for o in rendered(path) if o["kind"] == "Deployment"]


def admits(peer: dict[str, Any], namespace: dict[str, str], pod: dict[str, str]) -> bool:
    """Whether a peer of a policy in `agents` means this pod of this namespace."""
    if "namespaceSelector" not in peer and namespace.get("kubernetes.io/metadata.name") != "agents":
        return False
    return selects(peer.get("namespaceSelector", {}), namespace) and selects(peer.get("podSelector", {}), pod)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", ()))


def test_every_service_is_scraped_where_it_serves() -> None:
    for service in (o for o in rendered("manifests/overlays/local") if o["kind"] == "Service"):
        annotations = service["metadata"]["annotations"]
        ports = {str(port["port"]) for port in service["spec"]["ports"]}
        assert annotations["prometheus.io/scrape"] == "true" and annotations["prometheus.io/port"] in ports
        assert all(int(port) >= 1024 for port in ports), "the process kubelet runs without privileges"


def test_the_operator_holds_no_wildcard() -> None:
    for role in (o for o in rendered("manifests") if o["kind"] in ("ClusterRole", "Role")):
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]], rule


@pytest.mark.parametrize(("path", "replicas"), [("manifests/overlays/default", 2), ("manifests/overlays/local", 1)])
def test_on_a_cluster_a_second_operator_stands_by_and_a_drain_takes_one_at_a_time(path: str, replicas: int) -> None:
    objects = {(o["kind"], o["metadata"]["name"]): o for o in rendered(path)}
    operator = objects["Deployment", "agentops-operator"]
    assert operator["spec"]["replicas"] == replicas
    pod = operator["spec"]["template"]["spec"]
    assert "--leader-elect" in pod["containers"][0]["args"]
    own = operator["spec"]["selector"]
    (apart,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart["podAffinityTerm"]["labelSelector"] == own
    budget = objects["PodDisruptionBudget", "agentops-operator"]["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, own)
