"""What can go wrong when one role calls another.

RuntimeClientError
├── NotSent            no connection: the request certainly did nothing
├── Unanswered         sent, and no whole answer came back: it may have been done
└── Refused            the runtime answered with an error; `status` is the HTTP status
    ├── Busy           429 or 503: another turn is running, or the pod is shutting down
    ├── NotFound       404: the runtime knows nothing of that run
    └── Unauthorized   401 or 403: the bearer is not the pod's
"""

from __future__ import annotations


class RuntimeClientError(Exception):
    """Root. The message names the address and what happened."""


class NotSent(RuntimeClientError):
    """Safe to send again."""


class Unanswered(RuntimeClientError):
    """Not safe to send again: ask for the run's record instead."""


class Refused(RuntimeClientError):
    """The runtime said no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Busy(Refused):
    """Nothing was started; try again later."""


class NotFound(Refused):
    """There is no record of the run."""


class Unauthorized(Refused):
    """Nothing was started; read the token again."""
