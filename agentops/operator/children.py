"""Applying one child: deterministic name, controller reference, writes only for differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller import Client, ForeignObject, ensure
from agentops.controller.owners import controller_of, describe, is_controlled_by
from agentops.kube.errors import Invalid, NotFound
from agentops.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    PVC,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    SERVICE_ACCOUNT,
)
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("operator.children")

KINDS: Mapping[str, Kind] = {
    kind.kind: kind
    for kind in (
        CONFIG_MAP,
        DEPLOYMENT,
        NETWORK_POLICY,
        PVC,
        ROLE,
        ROLE_BINDING,
        SERVICE,
        SERVICE_ACCOUNT,
    )
}


class ChildWriter:
    """Creates what is missing, repairs owned fields that drifted, leaves foreign fields and objects alone."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ensure(self, desired: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
        """Bring one child in line. Raises ForeignObject, or the ApiError of a write."""
        kind, meta = KINDS[desired["kind"]], desired["metadata"]
        if kind is PVC:
            live = await self._client.try_get(kind, meta["name"], meta["namespace"])
            if live is not None:
                await self._keep_claim(desired, live, owner)
                return
        if kind is DEPLOYMENT:
            await self._make_way_for_recreate(desired, owner)
        try:
            outcome = await ensure(self._client, kind, desired, owner)
        except Invalid:
            if not await self._replace_lists(desired, owner):
                raise
            outcome = await ensure(self._client, kind, desired, owner)
        if outcome.changed:
            log.info(
                "child.written",
                kind=kind.kind,
                namespace=meta["namespace"],
                name=meta["name"],
                action=outcome.action,
                differences=list(outcome.differences)[:10],
            )

    async def _keep_claim(self, desired: Mapping[str, Any], live: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
        """A claim's spec is fixed from its creation; only its labels can drift."""
        if not is_controlled_by(live, owner):
            controller = controller_of(live)
            who = f"{controller['kind']} {controller['name']}" if controller else ""
            raise ForeignObject(describe(live), describe(owner), who)
        meta = live["metadata"]
        labels = {
            key: value
            for key, value in desired["metadata"]["labels"].items()
            if (meta.get("labels") or {}).get(key) != value
        }
        if labels and not meta.get("deletionTimestamp"):
            await self._client.patch(PVC, meta["name"], {"metadata": {"labels": labels}}, meta["namespace"])

    async def _replace_lists(self, desired: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
        """Write our lists over those of a child that cannot be repaired by an apply; whether there was one.

        An apply adds to a list by its keys. Where somebody changed the number of our port, it would put ours beside
        that one, and the API server refuses two of one name.
        """
        kind, meta = KINDS[desired["kind"]], desired["metadata"]
        if "spec" not in desired:
            return False
        try:
            live = await self._client.live.get(kind, meta["name"], meta["namespace"])
        except NotFound:
            return False
        if not is_controlled_by(live, owner):
            return False
        await self._client.patch(kind, meta["name"], {"spec": desired["spec"]}, meta["namespace"])
        log.info("child.replaced", kind=kind.kind, namespace=meta["namespace"], name=meta["name"])
        return True

    async def _make_way_for_recreate(self, desired: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
        """Turn RollingUpdate off together with its parameters.

        The API server made those up, so an apply would keep them, and refuse the two together.
        """
        meta = desired["metadata"]
        if desired["spec"].get("strategy", {}).get("type") != "Recreate":
            return
        live = await self._client.try_get(DEPLOYMENT, meta["name"], meta["namespace"])
        if live is None or live["spec"].get("strategy", {}).get("rollingUpdate") is None:
            return
        if is_controlled_by(live, owner):
            patch = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
            await self._client.patch(DEPLOYMENT, meta["name"], patch, meta["namespace"])
