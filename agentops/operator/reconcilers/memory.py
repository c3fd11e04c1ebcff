"""Memory services: every Service labelled `component=memory` gets a bearer in Secret `<service>-token`."""

from __future__ import annotations

from agentops.api import labels
from agentops.controller import Client, Request, Result
from agentops.kube.kinds import SERVICE
from agentops.operator.objects import names
from agentops.operator.review import COMPONENT_MEMORY, component
from agentops.operator.secrets import TokenKeeper


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
        await self._tokens.ensure(service, labelled, (names.TOKEN_KEY,))
        return None
