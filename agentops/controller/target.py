"""What a reflector follows, how, and whom it tells."""

from __future__ import annotations

from typing import Any, Protocol

from attrs import frozen

from agentops.kube.watch import Meta
from agentops.values.kinds import Kind


@frozen(slots=True)
class Target:
    """What is listed and watched. Equal targets can share one watch."""

    kind: Kind
    namespace: str = ""
    labels: str = ""
    fields: str = ""
    metadata_only: bool = False
    shard: str = ""
    """An opaque `shardSelector`, for servers that can split a collection."""


@frozen(slots=True)
class WatchOptions:
    """How watches behave; docs/deviations.md says which values are Go's."""

    max_internal_error_retry_s: float = 0.0
    """How long a watch that ends with an internal error is watched again before it is listed; 0: never."""
    rewatch_after_break: bool = True
    """Whether a stream that breaks goes on from the last version, unless it breaks twice in a row without an event;
    else it is listed again."""
    skip_malformed: bool = False
    """Whether an object without name or version is skipped; else everything is listed again."""
    marker_deadline_s: float = 30.0
    """How long a streamed list may be silent, or bring changes but no mark, before it is listed plainly."""
    tell_unchanged: bool = False
    """Whether a list tells handlers of objects that did not change, as of resyncs."""
    split_recreated: bool = True
    """Whether another uid under the same name is told as deletion and creation; else as an update."""


class Sink(Protocol):
    """Where the copy is kept. Calls must not raise; while `replaced` lasts there is no other."""

    def prepare(self, meta: Meta, raw: bytes) -> Any:
        """What the sink wants to get of one listed object; called once per object, page by page."""

    async def replaced(self, items: list[Any], resource_version: str) -> None:
        """The collection as of `resource_version`, as `prepare` made it."""

    def changed(self, type: str, meta: Meta, raw: bytes) -> None:
        """ADDED, MODIFIED or DELETED. The copy is now at the object's resource version."""

    def advanced(self, resource_version: str) -> None:
        """Nothing changed up to `resource_version`."""


class Observer(Protocol):
    """What metrics need to know."""

    def relisted(self, reason: str) -> None: ...
    def restarted(self, reason: str) -> None: ...
    def failed(self, callback: str) -> None: ...
