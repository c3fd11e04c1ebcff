"""AgentTool, AgentResource and Channel: this release stores them and says that it does not act on them yet."""

from __future__ import annotations

from agentops.api.conditions import ConditionType, Reason
from agentops.controller import Client, Request, Result
from agentops.operator.status import StatusDraft
from agentops.values.clock import Clock
from agentops.values.kinds import Kind


class InertReconciler:
    """Phase Pending, and the reason."""

    def __init__(self, kind: Kind, client: Client, clock: Clock) -> None:
        self._kind = kind
        self._client = client
        self._clock = clock

    async def reconcile(self, request: Request) -> Result | None:
        found = await self._client.try_get(self._kind, request.name, request.namespace)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        message = f"this release accepts {self._kind.kind} objects and does not act on them yet: spec"
        draft = StatusDraft(self._kind, found, self._clock.now())
        draft.set(phase="Pending", observedGeneration=found["metadata"]["generation"])
        draft.condition(ConditionType.FIELDS_NOT_IN_EFFECT, True, Reason.NOT_IMPLEMENTED, message)
        await draft.save(self._client)
        return None
