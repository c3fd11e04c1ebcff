"""ReplicationControllers: what ReplicaSets were called in core/v1. `kubectl apply --prune` still asks for them."""

from __future__ import annotations

from typing import Any, ClassVar

from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import Context
from agentops.local.apiserver.strategies.workloads import ReplicaSetStrategy

Object = dict[str, Any]


class ReplicationControllerStrategy(ReplicaSetStrategy):
    """The selector is a plain map, may be left out, and may change."""

    fields: ClassVar[dict[str, str]] = {"status.replicas": "status.replicas"}

    def default(self, obj: Object) -> None:
        super().default(obj)
        labels = (obj["spec"]["template"].get("metadata") or {}).get("labels")
        if not labels:
            return
        if not obj["spec"].get("selector"):
            obj["spec"]["selector"] = dict(labels)
        if not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        selector = obj["spec"].get("selector")
        as_replica_set = {**obj["spec"], "selector": {"matchLabels": selector} if selector else None}
        return super().validate(ctx, {**obj, "spec": as_replica_set})

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return []
