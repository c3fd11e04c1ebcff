"""Memory services: every Service labelled `component=memory` gets a bearer in Secret `<service>-token`."""

from __future__ import annotations

from agentops.api import labels
from agentops.controller import Client, ForeignObject, Request, Result
from agentops.kube.kinds import SERVICE
from agentops.operator.objects import names
from agentops.operator.review import COMPONENT_MEMORY, component
from agentops.operator.secrets import TokenKeeper
from agentops.telemetry.logging import get_logger

log = get_logger("operator.memory")


class MemoryReconciler:
    """The memory pod and the agents of the namespace mount the same Secret."""

    def __init__(self, client: Client, tokens: TokenKeeper) -> None:
        self._client = client
        self._tokens = tokens

    async def reconcile(self, request: Request) -> Result | None:
        service = await self._client.try_get(SERVICE, request.name, request.namespace)
        if service is None or service["metadata"].get("deletionTimestamp"):
            return None
        if component(service) != COMPONENT_MEMORY:
            return None
        labelled = {labels.MANAGED_BY: labels.OPERATOR, labels.COMPONENT: labels.COMPONENT_TOKEN}
        try:
            await self._tokens.ensure(service, labelled, (names.TOKEN_KEY,))
        except ForeignObject as error:
            # Somebody brought a token of their own: memory and agents mount it just the same.
            log.info("memory.token-not-ours", service=str(request), error=str(error))
        return None
