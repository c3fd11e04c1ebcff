"""The operator has the rights it uses and no others, agents have none, and a missing right is told, not hidden.

What was used is read from the local plane's audit log, so the tests of that need the local plane.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from objects import agent, meta, run

OPERATOR = "system:serviceaccount:agent-system:agentops-operator"
GROUP = "agents.agentops.io"
NAME = "e2e-rights"
LABELS = {f"{GROUP}/agent": NAME, "app.kubernetes.io/managed-by": "agentops-operator"}

Right = tuple[str, str, str]
"""API group, resource (with its subresource) and verb."""

OWNERS = {("", "services/finalizers"), (GROUP, "agents/finalizers"), (GROUP, "agentruns/finalizers")}
"""No request asks for `update` of these: an admission plugin that OpenShift runs does, about owner references."""


@pytest.fixture(scope="module")
def audited(scripted: Any) -> Any:
    if scripted.state_dir is None:
        pytest.skip("the audit log of a real cluster is not ours to read")
    return scripted


def audit(cluster: Any) -> Iterator[dict[str, Any]]:
    with (cluster.state_dir / "audit.log").open() as lines:
        for line in lines:
            yield json.loads(line)


def used(cluster: Any) -> set[Right]:
    """What the operator's requests so far needed."""
    found: set[Right] = set()
    for event in audit(cluster):
        about = event.get("objectRef")
        if event["user"]["username"] != OPERATOR or not about or event["responseStatus"]["code"] in (401, 403):
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        verbs = {event["verb"]}
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            verbs.add("create")  # a server-side apply that made the object
        if "sendInitialEvents=true" in event["requestURI"]:
            verbs.add("list")  # a server that cannot stream the list is asked for it
        found |= {(about.get("apiGroup", ""), resource, verb) for verb in verbs}
    return found


def rights(role: dict[str, Any]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def phase(cluster: Any, name: str) -> str:
    return str(cluster.get("agentrun", name).get("status", {}).get("phase"))


def there(cluster: Any, kind: str, name: str) -> bool:
    return bool(cluster.kubectl("get", kind, name, "-n", "agents", "-o", "name", "--ignore-not-found").stdout)


def stray(kind: str, api_version: str, owner: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """A child such as another version of the operator may have made."""
    reference = {
        "apiVersion": owner["apiVersion"], "kind": "Agent", "name": NAME, "uid": owner["metadata"]["uid"],
        "controller": True,
    }  # fmt: skip
    labels = {**LABELS, f"{GROUP}/component": "service"}
    about = {"name": f"{NAME}-old", "namespace": "agents", "labels": labels, "ownerReferences": [reference]}
    return {"apiVersion": api_version, "kind": kind, "metadata": about, "spec": spec}


@pytest.fixture(scope="module")
def exercised(audited: Any) -> Iterator[Any]:
    """Everything the operator ever does, done once."""
    cluster = audited
    api_version = f"{GROUP}/v1alpha1"
    full: dict[str, Any] = {
        "storage": {"size": "1Gi"},
        "networkPolicy": {"enabled": True},
        "memory": {"serverRef": "agentops-memory"},
        "delegation": {"team": [f"{NAME}-task"]},
    }
    inert: list[dict[str, Any]] = [
        {"kind": "AgentTool", "spec": {"inline": {"content": "# nothing"}}},
        {"kind": "AgentResource",
         "spec": {"kind": "documentation", "displayName": "Docs", "documentation": {"urls": ["https://example.com"]}}},
        {"kind": "Channel", "spec": {"type": "webhook", "agentRef": NAME, "image": "agentops:0.1.0",
                                     "prompt": "{{ body }}"}},
    ]  # fmt: skip
    task = f"{NAME}-task"
    cluster.apply(agent(NAME, **full), agent(task, mode="task"))
    cluster.apply(*({"apiVersion": api_version, "metadata": meta(NAME), **body} for body in inert))
    cluster.kubectl("wait", "--for=condition=Ready", f"agent/{NAME}", f"agent/{task}", "-n", "agents", "--timeout=90s")

    # runs: an answer too long for the status, one that is cancelled, one whose Job is taken away, one that expires
    cluster.apply(
        run("rights-long", NAME, "Please write a lot."),
        run("rights-gone", NAME, "hello", ttlSecondsAfterFinished=1),
        run("rights-prompt", task, "word " * 40_000),
    )
    cluster.eventually(lambda: phase(cluster, "rights-long") == "Succeeded", "the long answer is there", 90)
    cluster.eventually(lambda: phase(cluster, "rights-prompt") == "Succeeded", "the task has ended", 90)
    for name in ("rights-lost", "rights-cancelled"):
        cluster.apply(run(name, task, "Please take your time."))
        cluster.eventually(lambda name=name: phase(cluster, name) == "Running", f"{name} runs", 90)
        if name == "rights-lost":
            job = cluster.get("agentrun", name)["status"]["jobName"]
            cluster.kubectl("delete", "job", job, "-n", "agents", "--wait=false")
        else:
            cluster.kubectl("patch", "agentrun", name, "-n", "agents", "--type=merge", "-p", '{"spec":{"cancel":true}}')
        cluster.eventually(lambda name=name: phase(cluster, name) == "Failed", f"{name} has ended", 90)
    cluster.eventually(lambda: not there(cluster, "agentrun", "rights-gone"), "a finished run has expired", 60)

    # drift and strays
    cluster.kubectl("label", "pvc", f"{NAME}-storage", f"{GROUP}/agent-", "-n", "agents", check=False)
    token = f"{NAME}-token"
    cluster.kubectl("patch", "secret", token, "-n", "agents", "--type=json",
                    "-p", '[{"op":"remove","path":"/data/salt"}]', check=False)  # fmt: skip
    owner = cluster.get("agent", NAME)
    container = {"name": "main", "image": "agentops:0.1.0", "args": ["nothing"]}
    template = {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [container]}}
    strays = [
        stray("Deployment", "apps/v1", owner,
              {"replicas": 0, "selector": {"matchLabels": {"app": "old"}}, "template": template}),
        stray("Service", "v1", owner, {"selector": {"app": "old"}, "ports": [{"port": 8080}]}),
    ]  # fmt: skip
    cluster.apply(*strays)
    for kind in ("deployment", "service"):
        cluster.eventually(lambda kind=kind: not there(cluster, kind, f"{NAME}-old"), f"the stray {kind} is gone")

    # what the spec no longer wants goes, but for the claim; the roll-out is told twice, which counts an event up
    own = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": meta(f"{NAME}-own")}
    cluster.apply(own)
    smaller = {"storage": None, "networkPolicy": None, "delegation": None, "serviceAccountName": f"{NAME}-own"}
    cluster.kubectl("patch", "agent", NAME, "-n", "agents", "--type=merge", "-p", json.dumps({"spec": smaller}))
    for kind in ("role", "rolebinding", "serviceaccount"):
        cluster.eventually(lambda kind=kind: not there(cluster, kind, f"{NAME}-agent"), f"the {kind} is gone")
    cluster.eventually(
        lambda: not cluster.get("networkpolicy", "-l", f"{GROUP}/agent={NAME}")["items"], "the NetworkPolicy is gone"
    )
    assert there(cluster, "pvc", f"{NAME}-storage")
    yield cluster
    names = ("rights-long", "rights-prompt", "rights-lost", "rights-cancelled")
    cluster.kubectl("delete", "agentrun", *names, "-n", "agents", "--wait=false", check=False)
    for kind in ("channel", "agenttool", "agentresource", "agent"):
        cluster.kubectl("delete", kind, NAME, "-n", "agents", check=False)
    cluster.kubectl("delete", "agent", task, "-n", "agents", check=False)
    cluster.kubectl("delete", "serviceaccount", f"{NAME}-own", "-n", "agents", check=False)


def test_the_operator_holds_no_right_that_it_never_uses(exercised: Any) -> None:
    cluster = exercised
    role = cluster.get("clusterrole", "agentops-operator")
    held = rights(role)
    # Granted ones apart: what the operator gives to the Role of an agent that delegates it must hold itself.
    granted = {
        (GROUP, resource, verb)
        for resource, verbs in (
            ("agents", ("get", "list", "watch")),
            ("agentruns", ("create", "get", "list", "watch")),
            ("agentresources", ("get", "list")),
        )
        for verb in verbs
    }
    asked = used(cluster)
    unused = {right for right in held - asked - granted if right[:2] not in OWNERS}
    assert not unused, "held and never used: " + ", ".join(" ".join(right).strip() for right in sorted(unused))
    leases = rights(cluster.get("role", "agentops-operator-leader-election", namespace="agent-system"))
    assert leases <= asked, leases - asked


def test_nobody_who_belongs_to_the_plane_is_refused_or_all_powerful(exercised: Any) -> None:
    parts = {"system:node:local", "system:kube-controller-manager", OPERATOR}
    seen: set[str] = set()
    refused = []
    for event in audit(exercised):
        user = event["user"]
        if user["username"] not in parts:
            continue
        seen.add(user["username"])
        assert "system:masters" not in user["groups"], user
        if event["responseStatus"]["code"] in (401, 403):
            refused.append(f"{user['username']} {event['verb']} {event['requestURI']}")
    assert seen == parts
    assert refused == []


def test_an_agent_may_read_itself_and_nothing_else(scripted: Any, daemon: str) -> None:
    def may(verb: str, *what: str) -> str:
        account = f"--as=system:serviceaccount:agents:{daemon}-agent"
        return str(scripted.kubectl("auth", "can-i", verb, *what, "-n", "agents", account, check=False).stdout).strip()

    assert may("get", f"agents.{GROUP}/{daemon}") == "yes"
    for verb, what in (
        ("get", f"agents.{GROUP}/another"),
        ("list", f"agents.{GROUP}"),
        ("patch", f"agents.{GROUP}/{daemon}"),
        ("create", f"agentruns.{GROUP}"),
        ("get", "secrets"),
        ("list", "pods"),
        ("create", "pods/exec"),
        ("get", "configmaps"),
    ):
        assert may(verb, what) == "no", (verb, what)


@pytest.mark.parametrize("service", ["agentops-memory:7437", "{daemon}:4096"])
def test_a_port_without_its_bearer_answers_401(scripted: Any, daemon: str, service: str) -> None:
    """Probes and metrics apart, which say nothing of what an agent knows."""
    where = f"/api/v1/namespaces/agents/services/{service.format(daemon=daemon)}/proxy"
    paths = ("/search?q=port", "/stats") if "memory" in service else ("/status", "/events", "/working-memory")
    for path in paths:
        refused = scripted.kubectl("get", "--raw", where + path, check=False)
        assert refused.returncode != 0, path
        assert "asked for the client to provide credentials" in refused.stderr, (path, refused.stderr)
    assert scripted.kubectl("get", "--raw", f"{where}/healthz").returncode == 0


@contextmanager
def without(cluster: Any, group: str, resource: str, verb: str) -> Iterator[None]:
    """Take one verb from the operator for the length of the block."""
    role = cluster.get("clusterrole", "agentops-operator")
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        role["metadata"].pop(key, None)
    less = json.loads(json.dumps(role))
    for rule in less["rules"]:
        if group in rule["apiGroups"] and resource in rule["resources"]:
            rule["verbs"] = [held for held in rule["verbs"] if held != verb]
    less["rules"] = [rule for rule in less["rules"] if rule["verbs"]]
    cluster.kubectl("replace", "-f", "-", stdin=json.dumps(less))
    try:
        yield
    finally:
        cluster.kubectl("replace", "-f", "-", stdin=json.dumps(role))


def test_a_missing_right_stands_in_the_agents_condition_until_it_is_given_back(scripted: Any) -> None:
    name = "e2e-refused"

    def told() -> str:
        ready = scripted.condition(f"agent/{name}", "Ready")
        return str(ready.get("message", "")) if ready.get("status") == "False" else ""

    with without(scripted, "networking.k8s.io", "networkpolicies", "patch"):
        scripted.apply(agent(name, networkPolicy={"enabled": True}))
        said = scripted.eventually(lambda: "forbidden" in told() and told(), "the Ready condition tells of it")
        assert 'cannot patch resource "networkpolicies" in API group "networking.k8s.io"' in said
    scripted.kubectl("wait", "--for=condition=Ready", f"agent/{name}", "-n", "agents", "--timeout=90s")
    scripted.kubectl("delete", "agent", name, "-n", "agents")


def test_a_status_that_cannot_be_written_is_counted_and_logged(scripted: Any) -> None:
    """The condition itself is what cannot be written here, so the metric and the log have to say it."""
    name = "e2e-unwritten"

    def failures() -> float:
        total = 0.0
        pods = scripted.get("pods", "-l", "app.kubernetes.io/component=operator", namespace="agent-system")["items"]
        for pod in pods:
            path = f"/api/v1/namespaces/agent-system/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            for line in scripted.kubectl("get", "--raw", path).stdout.splitlines():
                if line.startswith('controller_runtime_reconcile_errors_total{controller="agent"}'):
                    total += float(line.rpartition(" ")[2])
        return total

    before = failures()
    with without(scripted, GROUP, "agents/status", "patch"):
        scripted.apply(agent(name))
        scripted.eventually(lambda: failures() > before, "the refused write is counted")
        logs = scripted.kubectl(
            "logs", "-l", "app.kubernetes.io/component=operator", "-n", "agent-system", "--tail=-1"
        ).stdout
        refusals = [line for line in logs.splitlines() if name in line and "agents/status" in line]
        assert refusals, "the log does not tell"
    scripted.kubectl("wait", "--for=condition=Ready", f"agent/{name}", "-n", "agents", "--timeout=90s")
    scripted.kubectl("delete", "agent", name, "-n", "agents")
