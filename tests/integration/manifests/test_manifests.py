"""What `kubectl apply -k` would send: valid for a real cluster, of this version, under restricted Pod Security."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentops import __version__
from agentops.api.kinds import ALL

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


def test_every_pod_is_restricted() -> None:
    for pod in pods(rendered("manifests/overlays/local")):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}


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
