"""What can go wrong in the framework, beyond what the server answers (`kube.errors`).

ControllerError
├── TerminalError          raised by a reconciler: do not try again until something changes
├── RetryAfter             raised by a reconciler: failed, try again after a fixed time
├── StaleCache             the cache has not seen our own write yet; the key is tried again later
├── CacheNotStarted        a cached read before the manager runs
├── ResourceNotCached      a cached read of a kind that nobody watches
├── CacheSyncTimeout       a watch could not be established in time
├── LeaderElectionLost     the lease was lost; the process must end
├── GraceExceeded          something did not stop within the grace period
├── BuildError             a controller or manager is put together wrongly
├── ChangedMeanwhile       the object was created by somebody else meanwhile; try again
├── AlreadyOwned           the object has another controller reference
└── ForeignObject          the object exists and belongs to somebody else

CacheSyncTimeout, LeaderElectionLost and GraceExceeded are RunErrors too: a program that ends of them says so in a line.
"""

from __future__ import annotations

from agentops.net.errors import RunError


class ControllerError(Exception):
    """Root of this layer's errors."""


class TerminalError(ControllerError):
    """Retrying cannot help. Counted as an error; the key waits for the next event."""


class RetryAfter(ControllerError):
    """Counted as an error; the key is tried again after `seconds` instead of the backoff.

    `priority` replaces the priority of that try. Raises ValueError for no time at all: that would be a loop.
    """

    def __init__(self, seconds: float, message: str = "", *, priority: int | None = None) -> None:
        if seconds <= 0:
            raise ValueError(f"RetryAfter({seconds:g}): the time must be positive; raise any other error to back off")
        super().__init__(message or f"try again in {seconds:g} s")
        self.seconds = seconds
        self.priority = priority


class StaleCache(ControllerError):
    """A cached read would have returned a state older than our own write."""


class CacheNotStarted(ControllerError):
    """The cache is read before it runs."""


class ResourceNotCached(ControllerError):
    """The kind is not watched, so the cache cannot answer."""


class CacheSyncTimeout(ControllerError, RunError):
    """The first list did not succeed in time; the message holds the last error."""


class LeaderElectionLost(ControllerError, RunError):
    """Another process may be leading now."""


class GraceExceeded(ControllerError, RunError):
    """Names what was still running when the grace period ended."""


class BuildError(ControllerError):
    """The message names the part and the fix."""


class ChangedMeanwhile(ControllerError):
    """The cache did not show an object that exists: a read later it will."""


class AlreadyOwned(ControllerError):
    """An object can have one controller only."""


class ForeignObject(ControllerError):
    """An object of the wanted name exists and is controlled by somebody else, or by nobody.

    `object_name` is `Kind namespace/name`; `controller` names the one who has it, or is empty.
    """

    def __init__(self, object_name: str, wanted_owner: str, controller: str) -> None:
        who = f"is controlled by {controller}" if controller else "exists and is controlled by nobody"
        super().__init__(f"{object_name} {who}, so it is not touched for {wanted_owner}; rename or delete one of them")
        self.object_name = object_name
        self.wanted_owner = wanted_owner
        self.controller = controller
