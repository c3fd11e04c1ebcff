"""Writing a status: only what changed, only when something did, only over what was read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from agentops.controller.conditions import get_condition, set_condition
from agentops.values.kinds import Kind


class PatchClient(Protocol):
    """The one call a status needs."""

    async def patch(
        self, kind: Kind, name: str, patch: dict[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> dict[str, Any]: ...


class StatusDraft:
    """The status of `obj` as it should become. Nothing is written before `save`."""

    def __init__(self, kind: Kind, obj: Mapping[str, Any], now: datetime) -> None:
        self._kind = kind
        self._metadata = obj["metadata"]
        self._before: dict[str, Any] = obj.get("status") or {}
        self._now = now
        self.fields: dict[str, Any] = copy.deepcopy(self._before)

    def set(self, **fields: Any) -> None:
        """Set status keys, spelled as in JSON; None removes."""
        for key, value in fields.items():
            if value is None:
                self.fields.pop(key, None)
            else:
                self.fields[key] = value

    def condition(self, type_: str, status: bool | None, reason: str, message: str) -> bool:
        """Set a condition; None is Unknown. Says whether status or reason changed: what an Event tells."""
        conditions = self.fields.setdefault("conditions", [])
        was = get_condition(conditions, type_)
        before = (was["status"], was["reason"]) if was else None
        word = "Unknown" if status is None else str(status)
        set_condition(
            conditions,
            str(type_),
            word,
            str(reason),
            message,
            observed_generation=int(self._metadata.get("generation", 0)),
            now=self._now,
        )
        return before != (word, str(reason))

    def drop_condition(self, type_: str) -> None:
        conditions = self.fields.get("conditions") or []
        self.fields["conditions"] = [item for item in conditions if item["type"] != type_]

    def has(self, type_: str) -> Mapping[str, Any] | None:
        """The condition as drafted."""
        return get_condition(self.fields.get("conditions") or [], type_)

    @property
    def patch(self) -> dict[str, Any]:
        """The merge patch from what was read to the draft; empty when nothing changed."""
        before = {key: value for key, value in self._before.items() if value not in ([], {})}
        after = {key: value for key, value in self.fields.items() if value not in ([], {})}
        return merge_patch(before, after)

    async def save(self, client: PatchClient) -> dict[str, Any] | None:
        """Send the patch, if there is one, on condition that nobody wrote since. Raises Conflict."""
        patch = self.patch
        if not patch:
            return None
        body = {"metadata": {"resourceVersion": self._metadata["resourceVersion"]}, "status": patch}
        return await client.patch(
            self._kind, self._metadata["name"], body, self._metadata["namespace"], subresource="status"
        )


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that turns `before` into `after`."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if key in before and old == value:
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            patch[key] = merge_patch(old, value)
        else:
            patch[key] = value
    return patch
