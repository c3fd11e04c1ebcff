"""What an operator of the cluster sees: metrics through annotated Services, one trace a run, logs that name the run."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cluster import Cluster
from metrics_text import problems, samples, total
from objects import run
from support.collector import Span

OPERATOR = {
    "controller_runtime_reconcile_total", "controller_runtime_reconcile_errors_total",
    "controller_runtime_terminal_reconcile_errors_total", "controller_runtime_reconcile_panics_total",
    "controller_runtime_reconcile_timeouts_total", "controller_runtime_reconcile_time_seconds_count",
    "controller_runtime_max_concurrent_reconciles", "controller_runtime_active_workers",
    "workqueue_depth", "workqueue_adds_total", "workqueue_retries_total", "workqueue_queue_duration_seconds_count",
    "workqueue_work_duration_seconds_count", "workqueue_unfinished_work_seconds",
    "workqueue_longest_running_processor_seconds", "rest_client_requests_total",
    "leader_election_master_status", "leader_election_slowpath_total",
    "agentops_agentruns", "agentops_agentrun_duration_seconds_count", "agentops_agentrun_queue_depth",
}  # fmt: skip
AGENT = {
    "agentops_turns_total", "agentops_tokens_total", "agentops_tool_calls_total",
    "agentops_time_to_first_token_seconds_count",
}  # fmt: skip
MEMORY = {"agentops_memory_requests_total"}


class Scrape:
    """What Prometheus would hold after one round: every endpoint of every annotated Service."""

    def __init__(self, cluster: Cluster) -> None:
        self.texts: dict[str, str] = {}
        self.found: dict[Any, float] = {}
        for service in cluster.get("services", "-A")["items"]:
            meta = service["metadata"]
            notes = meta.get("annotations") or {}
            if notes.get("prometheus.io/scrape") != "true":
                continue
            port, path = notes["prometheus.io/port"], notes.get("prometheus.io/path", "/metrics")
            for pod in _ready_pods(cluster, meta["namespace"], meta["name"]):
                target = f"/api/v1/namespaces/{meta['namespace']}/pods/{pod}:{port}/proxy{path}"
                text = cluster.kubectl("get", "--raw", target).stdout
                self.texts[f"{meta['namespace']}/{meta['name']}/{pod}"] = text
                for sample, value in samples(text).items():
                    self.found[sample] = self.found.get(sample, 0.0) + value

    def of(self, name: str, **labels: str) -> float:
        return total(self.found, name, **labels)


def _ready_pods(cluster: Cluster, namespace: str, service: str) -> list[str]:
    slices = cluster.get("endpointslices", "-l", f"kubernetes.io/service-name={service}", namespace=namespace)["items"]
    return [
        endpoint["targetRef"]["name"]
        for part in slices
        for endpoint in part.get("endpoints") or ()
        if endpoint["conditions"].get("ready") and endpoint.get("targetRef")
    ]


def finished(cluster: Cluster, name: str) -> dict[str, Any]:
    cluster.kubectl("wait", "--for=condition=Complete", f"agentrun/{name}", "-n", "agents", "--timeout=60s")
    status: dict[str, Any] = cluster.get("agentrun", name)["status"]
    return status


def test_a_scrape_through_the_services_has_every_metric_and_they_move(scripted: Cluster, daemon: str) -> None:
    before = Scrape(scripted)
    scripted.apply(
        run("watched-1", daemon, "Please count slowly."),
        run("watched-2", daemon, "Please remember the port."),
        run("watched-3", daemon, "Please break."),
    )

    def waiting() -> Scrape | None:
        seen = Scrape(scripted)
        return seen if seen.of("agentops_agentrun_queue_depth") > 0 else None

    during = scripted.eventually(waiting, "a run was seen waiting for a slot", 30, pause_s=0.1)
    assert during.of("agentops_agentruns", phase="Queued") == during.of("agentops_agentrun_queue_depth")
    assert during.of("agentops_agentruns", phase="Running") >= 1
    phases = [finished(scripted, name)["phase"] for name in ("watched-1", "watched-2", "watched-3")]
    assert phases == ["Succeeded", "Succeeded", "Failed"]
    after = Scrape(scripted)
    names = {name for name, _ in after.found}
    assert names >= OPERATOR | AGENT | MEMORY, f"missing: {sorted((OPERATOR | AGENT | MEMORY) - names)}"

    def grew(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    assert grew("agentops_agentruns", phase="Succeeded") == 2
    assert grew("agentops_agentruns", phase="Failed") == 1
    assert grew("agentops_agentrun_duration_seconds_count", mode="daemon", phase="Succeeded") == 2
    assert grew("agentops_turns_total", outcome="succeeded") == 2
    assert grew("agentops_turns_total", outcome="failed") == 1
    assert grew("agentops_tool_calls_total", tool="mem_save", outcome="ok") == 1
    assert grew("agentops_tokens_total", kind="output") > 0
    assert grew("agentops_time_to_first_token_seconds_count") >= 3
    assert grew("agentops_memory_requests_total", route="/observations", code="201") == 1
    assert grew("agentops_memory_requests_total", route="/context", code="200") == 3
    assert grew("controller_runtime_reconcile_total", controller="agentrun") > 0
    assert grew("workqueue_adds_total", controller="agentrun") > 0
    assert grew("rest_client_requests_total", method="PATCH") > 0
    assert after.of("agentops_agentrun_queue_depth") == 0
    assert after.of("leader_election_master_status") == 1, "one of the two operators leads"


def test_what_is_scraped_is_clean(scripted: Cluster, daemon: str) -> None:
    runs = [item["metadata"]["name"] for item in scripted.get("agentruns")["items"]]
    uids = [item["metadata"]["uid"] for item in scripted.get("agentruns")["items"]]
    scrape = Scrape(scripted)
    assert len(scrape.texts) >= 3, sorted(scrape.texts)
    for target, text in scrape.texts.items():
        assert problems(text, runs + uids) == [], target


@pytest.fixture
def trace(scripted: Cluster, daemon: str, request: pytest.FixtureRequest) -> tuple[str, list[Span]]:
    """Name of a run that saved to memory, and the spans of its trace, all of them."""
    if scripted.collector is None:
        pytest.skip("the pods of this cluster cannot reach a collector here")
    name = f"traced-{abs(hash(request.node.name)) % 10_000}"
    scripted.apply(run(name, daemon, "Please remember the port."))
    status = finished(scripted, name)
    assert status["phase"] == "Succeeded", status
    wanted = {"agent.prompt", "store.save", "operator.dispatch.daemon", "reconcile agentrun"}

    def missing() -> set[str]:
        return wanted - {span.name for span in scripted.collector.spans(status["traceID"])}

    scripted.eventually(lambda: not missing(), "the run's spans of every role arrived", 30)
    return name, scripted.collector.spans(status["traceID"])


def test_one_run_is_one_connected_trace_from_reconcile_to_memory(trace: tuple[str, list[Span]], daemon: str) -> None:
    name, spans = trace
    by_id = {span.id: span for span in spans}

    def path(span: Span) -> list[str]:
        above = by_id.get(span.parent)
        return [*(path(above) if above else []), f"{span.service} {span.name}"]

    paths = [path(span) for span in spans]
    assert {one[0] for one in paths} == {"agentops-operator reconcile agentrun"}, "every span hangs under the reconcile"
    turn = [
        "agentops-operator reconcile agentrun",
        "agentops-operator operator.dispatch.daemon",
        "agentops-runtime agent.prompt",
    ]
    step = [*turn, "agentops-runtime agent.step"]
    saving = [*step, "agentops-runtime tool.execute: mem_save", "agentops-runtime memory.save_observation"]
    for wanted in (
        [
            *turn,
            "agentops-runtime memory.fetch_context",
            "agentops-memory memory.fetch_context",
            "agentops-memory store.context",
        ],
        [*step, "agentops-runtime chat any"],
        [*saving, "agentops-memory memory.add_observation", "agentops-memory store.save"],
    ):
        assert wanted in paths, "\n".join(" > ".join(one) for one in paths)
    prompt = next(span for span in spans if span.name == "agent.prompt")
    assert prompt.attributes.items() >= {
        "agentops.run": name, "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": daemon,
        "gen_ai.agent.id": f"agents/{daemon}", "gen_ai.request.model": "any", "gen_ai.response.model": "any",
        "gen_ai.provider.name": "openaicompat", "agent.steps": 2, "agent.mode": "daemon",
    }.items()  # fmt: skip
    chats = [span for span in spans if span.name == "chat any"]
    assert len(chats) == 2
    assert (
        sum(span.attributes["gen_ai.usage.input_tokens"] for span in chats)
        == prompt.attributes["gen_ai.usage.input_tokens"]
    )
    assert [span.attributes["gen_ai.response.finish_reasons"] for span in chats] == [["tool-calls"], ["stop"]]
    tool = next(span for span in spans if span.name.startswith("tool.execute"))
    assert tool.attributes.items() >= {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "mem_save", "tool.type": "memory"
    }.items()  # fmt: skip
    assert prompt.resource["agent.namespace"] == "agents"
    assert not any(span.failed for span in spans)


def test_every_log_line_of_a_run_names_it_and_its_trace(scripted: Cluster, trace: tuple[str, list[Span]]) -> None:
    name, spans = trace
    of_run = {pod: [line for line in lines if line.get("run") == name] for pod, lines in _json_logs(scripted).items()}
    said = {line["event"] for lines in of_run.values() for line in lines}
    wanted = {"run.admitted", "turn.start", "tool.call", "observation.saved", "turn.end", "run.finished"}
    assert said >= wanted, f"missing {wanted - said} in\n" + "\n".join(_logs(scripted).values())
    for pod, lines in of_run.items():
        for line in lines:
            assert line.get("trace_id") == spans[0].trace, f"{pod}: {line}"


def test_logs_are_json_and_hold_no_secret(scripted: Cluster, daemon: str) -> None:
    hidden = _secrets(scripted)
    assert len(hidden) >= 3
    for pod, text in _logs(scripted).items():
        for line in text.splitlines():
            if not pod.startswith("agents/scripted"):
                assert line.startswith("{"), f"{pod}: {line}"
            for name, value in hidden.items():
                assert value not in line, f"{pod} says the secret {name}: {line[:200]}"


def test_spans_hold_neither_secrets_nor_what_was_said(scripted: Cluster, trace: tuple[str, list[Span]]) -> None:
    everything = "\n".join(repr(span) for span in scripted.collector.spans())
    for name, value in _secrets(scripted).items():
        assert value not in everything, f"a span holds the secret {name}"
    for said in ("Please remember the port", "I saved the port", "The gateway listens", "list the workspace"):
        assert said not in everything, f"a span holds {said!r}"


def _logs(cluster: Cluster) -> dict[str, str]:
    pods = [pod["metadata"] for ns in ("agents", "agent-system") for pod in cluster.get("pods", namespace=ns)["items"]]
    return {
        f"{pod['namespace']}/{pod['name']}": cluster.kubectl(
            "logs", pod["name"], "-n", pod["namespace"], "--all-containers", check=False
        ).stdout
        for pod in pods
    }


def _json_logs(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    return {
        pod: [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        for pod, text in _logs(cluster).items()
    }


def _secrets(cluster: Cluster) -> dict[str, str]:
    """Every value of every Secret of agents that is long enough to be one."""
    return {
        f"{secret['metadata']['name']}/{key}": value
        for secret in cluster.get("secrets")["items"]
        for key, encoded in (secret.get("data") or {}).items()
        if len(value := base64.b64decode(encoded).decode("utf-8", "replace").strip()) >= 12
    }
