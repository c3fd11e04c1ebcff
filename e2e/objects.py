"""Manifests the tests apply, and the script the model answers with."""

from __future__ import annotations

from typing import Any

from agentops import __version__

SCRIPT = """
turns:
  - when: {user: list the workspace}
    tool_calls:
      - name: bash
        arguments: {command: "echo from-the-tool > proof.txt && cat proof.txt && id -u"}
  - when: {tool_result: from-the-tool}
    text: The tool said from-the-tool.
  - when: {user: remember the port}
    tool_calls:
      - name: mem_save
        arguments: {type: decision, title: The port, content: The gateway listens on port 9443.}
  - when: {tool_result: "The port"}
    text: I saved the port.
  - when: {user: take your time}
    text: done at last
    delay: 40s
  - when: {user: count slowly}
    text: [one, two, three, four, five, six]
    chunk_delay: 1s
  - when: {user: show the environment}
    tool_calls:
      - {name: bash, arguments: {command: "env; echo end-of-env"}}
  - when: {tool_result: end-of-env}
    echo: tool_result
  - when: {user: write a lot}
    text: "0123456789abcdef"
    repeat: 2560
    chunk_chars: 4096
  - when: {user: break}
    error: {status: 401, body: {error: {message: bad key, type: invalid_request_error}}}
otherwise: {text: An ordinary answer.}
"""


def scripted_model(name: str, script: str) -> list[dict[str, Any]]:
    """A model of one's own: ConfigMap, Deployment, Service and Provider, all called `name`."""
    labels = {"app": name}
    container = {
        "name": "model",
        "image": image(),
        "args": ["model", "--script", "/scripts/script.yaml"],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "scripts", "configMap": {"name": name}}],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name), "data": {"script.yaml": script}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta(name),
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta(name),
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 8000, "targetPort": "http"}]},
        },
        provider(name, f"http://{name}.agents.svc:8000/v1"),
    ]


def image() -> str:
    return f"agentops:{__version__}"


def meta(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "agents"}


def provider(name: str, url: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "agents.agentops.io/v1alpha1",
        "kind": "Provider",
        "metadata": meta(name),
        "spec": {"type": "openaicompat", "endpoint": {"baseURL": url}, **spec},
    }


def agent(name: str, provider: str = "scripted", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "agents.agentops.io/v1alpha1",
        "kind": "Agent",
        "metadata": meta(name),
        "spec": {
            "mode": "daemon",
            "model": f"{provider}/any",
            "providerRefs": [{"name": provider}],
            "builtinTools": ["bash"],
            **spec,
        },
    }


def run(name: str, agent: str, prompt: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "agents.agentops.io/v1alpha1",
        "kind": "AgentRun",
        "metadata": meta(name),
        "spec": {"agentRef": agent, "prompt": prompt, **spec},
    }
