"""What can go wrong inside the runtime.

RuntimeFault
├── ConfigFault            settings or config.json are wrong: the role ends with one line and exit code 2
├── StoreFault             the state dir cannot be read or written
├── ProviderFault          a model call failed; `retryable`, `status` and `provider` say how
│   ├── ProviderAuthFault  401 or 403: the key is missing or wrong
│   └── ProviderReplyFault the provider answered something that is not its protocol
├── ToolFault              a tool refuses or fails; the text goes to the model as an error result
├── BusyFault              a turn is already going (HTTP 429)
└── RunConflict            a run name is being reused while it still runs (HTTP 409)
"""

from __future__ import annotations

from agentops.net.errors import UsageError


class RuntimeFault(Exception):
    """Base of everything the runtime raises on purpose. `str()` is one sentence for people."""


class ConfigFault(RuntimeFault, UsageError):
    """Names the file or variable, the field and the fix."""


class StoreFault(RuntimeFault, UsageError):
    """Names the file and the fix."""


class ProviderFault(RuntimeFault):
    """A model call failed.

    `status` is the HTTP status, or None when no answer came. `retry_after_s` is what the provider
    asked for. `kind` is one of rate_limited, auth_error, not_found, server_error, timeout,
    connection_error, bad_request, too_long (the conversation
    does not fit the model), error. `unheard`: nobody listened where the model should be, so it was not asked.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        kind: str = "error",
        unheard: bool = False,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.kind = kind
        self.unheard = unheard


class ProviderAuthFault(ProviderFault):
    """The provider refused the credentials; the message names where they come from."""


class ProviderReplyFault(ProviderFault):
    """The provider's answer could not be understood."""


class ToolFault(RuntimeFault):
    """Becomes an error tool result: the turn goes on and the model reads the text.

    `metadata` is what the console shows beside it (an exit code, a path); `fitted` says that the text was
    cut to size already.
    """

    def __init__(self, message: str, metadata: dict[str, object] | None = None, *, fitted: bool = False) -> None:
        super().__init__(message)
        self.metadata = metadata or {}
        self.fitted = fitted


class BusyFault(RuntimeFault):
    """One turn at a time; carries the name of the run that holds it."""

    def __init__(self, run: str) -> None:
        super().__init__("agent is busy")
        self.run = run


class RunConflict(RuntimeFault):
    """The same run name with another prompt or uid, while the first is still running."""
