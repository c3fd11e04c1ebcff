"""Objects for the tests of the local plane's controllers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


class Make:
    """Builds objects the way the API server would hand them out."""

    now = NOW

    def __init__(self) -> None:
        self._count = 0

    def uid(self) -> str:
        self._count += 1
        return f"uid-{self._count}"

    def stamp(self, seconds: float = 0) -> str:
        return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def meta(self, name: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": "ns",
            "uid": self.uid(),
            "generation": 1,
            "creationTimestamp": self.stamp(self._count - 10_000),
            **more,
        }

    def pod(
        self,
        name: str = "p",
        *,
        phase: str = "Running",
        ready: bool = True,
        ip: str = "127.65.0.2",
        deleting: bool = False,
        finalizers: tuple[str, ...] = (),
        labels: dict[str, str] | None = None,
        spec: dict[str, Any] | None = None,
        **meta: Any,
    ) -> dict[str, Any]:
        metadata = self.meta(name, labels=labels or {}, **meta)
        if deleting:
            metadata["deletionTimestamp"] = self.stamp()
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        conditions = [
            {
                "type": "Ready",
                "status": "True" if ready and phase == "Running" else "False",
                "lastTransitionTime": self.stamp(-60),
            }
        ]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": "local", "containers": [{"name": "c"}], **(spec or {})},
            "status": {"phase": phase, "podIP": ip, "conditions": conditions},
        }

    def deployment(self, replicas: int = 3, *, image: str = "a:1", **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.meta("web"),
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]},
                },
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
                **spec,
            },
        }

    def job(self, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.meta("work"),
            "spec": {
                "parallelism": 1,
                "completions": 1,
                "backoffLimit": 6,
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
                **spec,
            },
        }

    def service(self, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.meta("web", labels={"team": "x"}),
            "spec": {
                "selector": {"app": "web"},
                "clusterIP": "127.64.0.9",
                "ports": list(ports) or [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
                **spec,
            },
        }


@pytest.fixture
def make() -> Make:
    return Make()
