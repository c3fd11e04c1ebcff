"""The six CustomResourceDefinitions, and their YAML.

`manifests/crd/` holds what `agentops crds --write` made of this module; a test and CI compare the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agentops.api import kinds, labels
from agentops.api.objects import CLASSES
from agentops.api.schema import object_schema
from agentops.values.kinds import Kind

MAX_CRD_BYTES = 256 * 1024
"""Size a CRD must stay under, so that `kubectl apply` can annotate it."""
HEADER = "# Made by `agentops crds --write manifests/crd`; change agentops/api/types and run it again.\n"


def _column(name: str, path: str, type: str = "string", *, wide: bool = False, text: str = "") -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": type, "jsonPath": path}
    if text:
        column["description"] = text
    if wide:
        column["priority"] = 1
    return column


_AGE = _column("Age", ".metadata.creationTimestamp", "date")
_PHASE = _column("Phase", ".status.phase")
_MESSAGE = _column("Message", ".status.message", wide=True, text="Why the phase is what it is.")

PRINTER_COLUMNS: dict[Kind, list[dict[str, Any]]] = {
    kinds.AGENT: [
        _column("Mode", ".spec.mode"),
        _column("Model", ".spec.model"),
        _PHASE,
        _AGE,
        _column("Ready", ".status.readyReplicas", "integer", wide=True, text="Pods that answer."),
        _column("URL", ".status.serviceURL", wide=True),
        _column("Image", ".status.runtimeImage", wide=True),
        _MESSAGE,
    ],
    kinds.AGENT_RUN: [
        _column("Agent", ".spec.agentRef"),
        _column("Source", ".spec.source"),
        _PHASE,
        _column("Mode", ".status.mode"),
        _column("Intent", ".status.outcome.intent"),
        _column("Artifact", ".status.outcome.artifacts[0].url"),
        _column("Tokens", ".status.tokensUsed", "integer"),
        _AGE,
        _column("Reason", '.status.conditions[?(@.type=="Complete")].reason', wide=True, text="Why the run ended."),
        _column("Pod", ".status.podName", wide=True),
        _column("Model", ".status.model", wide=True),
        _column("Output", ".status.output", wide=True),
    ],
    kinds.AGENT_TOOL: [
        _column("Source", ".status.sourceType"),
        _column("Category", ".spec.category"),
        _PHASE,
        _column("URL", ".status.serviceURL"),
        _AGE,
        _MESSAGE,
    ],
    kinds.AGENT_RESOURCE: [
        _column("Kind", ".spec.kind"),
        _column("Display Name", ".spec.displayName"),
        _PHASE,
        _AGE,
        _MESSAGE,
    ],
    kinds.CHANNEL: [
        _column("Type", ".spec.type"),
        _column("Agent", ".spec.agentRef"),
        _PHASE,
        _column("Webhook", ".status.webhookURL"),
        _AGE,
        _MESSAGE,
    ],
    kinds.PROVIDER: [
        _column("Type", ".spec.type"),
        _PHASE,
        _column("Agents", ".status.boundAgents", "integer"),
        _AGE,
        _column("Endpoint", ".spec.endpoint.baseURL", wide=True),
        _MESSAGE,
    ],
}


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one of the six kinds, as a new dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.resource, "labels": {labels.PART_OF: "agentops"}},
        "spec": {
            "group": kind.group,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kinds.SHORT_NAMES[kind.kind]],
                "categories": [kinds.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": kind.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [dict(column) for column in PRINTER_COLUMNS[kind]],
                    "schema": {"openAPIV3Schema": object_schema(CLASSES[kind])},
                }
            ],
        },
    }


def crds() -> list[dict[str, Any]]:
    """All six, in the order of `kinds.ALL`."""
    return [crd(kind) for kind in kinds.ALL]


def to_yaml(obj: dict[str, Any]) -> str:
    """One YAML document: keys in the order of the dict, no anchors, the same bytes every time."""
    return yaml.dump(obj, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def files() -> dict[str, str]:
    """The contents of manifests/crd by file name: one file per CRD, and kustomization.yaml."""
    named = {f"{kind.group}_{kind.plural}.yaml": HEADER + to_yaml(crd(kind)) for kind in kinds.ALL}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(named),
    }
    return {**named, "kustomization.yaml": HEADER + to_yaml(kustomization)}


def drift(directory: Path) -> list[str]:
    """One line per file of `directory` that is not what `files()` says; empty when all is well."""
    wanted = files()
    problems = []
    for name, content in wanted.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.read_text(encoding="utf-8") != content:
            problems.append(f"{path}: not what the types say")
    if directory.is_dir():
        problems += [
            f"{path}: not a CRD of ours" for path in sorted(directory.glob("*.yaml")) if path.name not in wanted
        ]
    return problems


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
