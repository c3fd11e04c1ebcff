"""Synthetic objects of realistic size: Pods of 6 KB of which a fifth is managedFields, custom objects of 1.5 KB."""

from __future__ import annotations

from typing import Any

SENTINEL = "sentinel"
"""Name of the last object of a list and of a run of events: who has handled it has handled all."""

_STAMP = "2026-01-01T00:00:00Z"


def pod(number: int, version: int, name: str = "") -> dict[str, Any]:
    """A running Pod as a busy cluster has it."""
    name = name or f"web-{number % 400:03d}-{number:06d}"
    container = {
        "name": "app",
        "image": f"registry.example.org/team-{number % 20}/service-{number % 400}:v1.{number % 30}.{number % 7}",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{i}", "value": f"value-of-setting-{i}-of-{name}"} for i in range(16)],
        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [
            {"mountPath": f"/var/lib/data-{i}", "name": f"data-{i}", "readOnly": bool(i % 2)} for i in range(4)
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
        "livenessProbe": {"httpGet": {"path": "/alive", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": _STAMP}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    managed: dict[str, Any] = {
        f"f:setting-{i}": {".": {}, "f:name": {}, "f:value": {}, "f:valueFrom": {".": {}, "f:fieldRef": {}}}
        for i in range(15)
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "generateName": f"web-{number % 400:03d}-",
            "namespace": f"ns-{number % 50:02d}",
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "resourceVersion": str(version),
            "creationTimestamp": _STAMP,
            "labels": {"app": f"service-{number % 400}", "tier": "web", "pod-template-hash": f"{number % 997:010x}"},
            "annotations": {"example.org/checksum": f"{number:064x}", "example.org/owner": f"team-{number % 20}"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"web-{number % 400:03d}",
                    "uid": f"10000000-0000-4000-8000-{number % 400:012d}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {
                    "manager": "kube-controller-manager",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": _STAMP,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:containers": {'k:{"name":"app"}': {"f:env": managed}}}},
                }
            ],
        },
        "spec": {
            "containers": [container],
            "volumes": [{"name": f"data-{i}", "configMap": {"name": f"data-{i}-{name}"}} for i in range(4)],
            "nodeName": f"node-{number % 100:03d}",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {
                    "effect": "NoExecute",
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "tolerationSeconds": 300,
                }
                for key in ("not-ready", "unreachable")
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "hostIP": f"10.0.0.{number % 250}",
            "podIP": f"10.{number // 65000}.{number // 250 % 250}.{number % 250}",
            "startTime": _STAMP,
            "qosClass": "Burstable",
            "containerStatuses": [
                {
                    "name": "app",
                    "image": container["image"],
                    "imageID": f"registry.example.org/service@sha256:{number:064x}",
                    "containerID": f"containerd://{number:064x}",
                    "ready": True,
                    "started": True,
                    "restartCount": number % 3,
                    "state": {"running": {"startedAt": _STAMP}},
                    "lastState": {},
                }
            ],
        },
    }


def custom(number: int, version: int, name: str = "") -> dict[str, Any]:
    """A settled Widget with a spec of some size."""
    name = name or f"w{number:06d}"
    return {
        "apiVersion": "bench.agentops.io/v1",
        "kind": "Widget",
        "metadata": {
            "name": name,
            "namespace": f"ns-{number % 50:02d}",
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": _STAMP,
            "labels": {"app": f"service-{number % 400}", "tier": "web"},
        },
        "spec": {
            "value": f"value-{number}",
            "rules": [{"path": f"/api/v1/{name}/{i}", "weight": i, "backend": f"service-{i}"} for i in range(14)],
        },
        "status": {"observedGeneration": 1, "phase": "Ready"},
    }


def config_map(number: int, version: int, name: str = "") -> dict[str, Any]:
    """The ConfigMap that belongs to `custom(number)`."""
    owner = custom(number, version, name)
    reference = {"apiVersion": owner["apiVersion"], "kind": "Widget", "name": owner["metadata"]["name"]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": owner["metadata"]["name"],
            "namespace": owner["metadata"]["namespace"],
            "uid": f"20000000-0000-4000-8000-{number:012d}",
            "resourceVersion": str(version),
            "creationTimestamp": _STAMP,
            "ownerReferences": [
                {**reference, "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
            ],
        },
        "data": {"value": owner["spec"]["value"]},
    }
