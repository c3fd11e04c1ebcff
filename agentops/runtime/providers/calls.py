"""What the adapters share: one streaming call through a vendor's SDK, and its failures as our faults.

The vendors' SDKs come from one generator, so their streams and exceptions have the same names. What
differs (the shape of events, where an error keeps its status) is given in.
"""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import httpx2
from attrs import field, frozen

from agentops.runtime.errors import ProviderAuthFault, ProviderFault, ProviderReplyFault
from agentops.runtime.providers.base import Delta, Finish
from agentops.runtime.providers.bounds import MAX_ANSWER_CHARS, TooLarge
from agentops.runtime.providers.characters import Characters, Growing
from agentops.runtime.providers.faults import RETRYABLE_STATUS, detail, kind_of, retry_after, short
from agentops.runtime.providers.secrets import Secrets
from agentops.values.clock import Clock

_TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|maximum context|exceed_context|(prompt|input) is too long|too many tokens",
    re.IGNORECASE,
)
"""How vendors say that the conversation does not fit; only OpenAI gives it a code."""


class Reader(Protocol):
    """Turns a vendor's events into deltas; one for each call."""

    def feed(self, event: Any) -> list[Delta]: ...

    @property
    def finished(self) -> bool:
        """The model said why it stopped."""
        ...

    def finish(self) -> Finish: ...

    def notes(self) -> Sequence[Delta]:
        """What only the whole answer shows."""
        ...


@frozen
class VendorCalls:
    """The calls of one provider account, and how their failures are told.

    `key_source` is what an authentication error tells the user to look at, `format` and `hint` what an
    answer that is none does. `status_of` finds the status of an error the vendor put inside a stream.
    """

    provider: str
    base_url: str
    key_source: str
    sdk: ModuleType = field(repr=False)
    clock: Clock = field(repr=False)
    format: str
    hint: str
    status_of: Callable[[Any], int | None] = field(repr=False)
    secrets: Secrets = field(repr=False)
    """Taken out of what vendor and libraries say: some quote them."""

    async def stream(
        self, model: str, begin: Callable[[], Awaitable[Any]], reader: Reader, first: Sequence[Delta] = ()
    ) -> AsyncGenerator[Delta, None]:
        """The deltas of the response that `begin` opens. `first` goes before the first of them: never alone, because
        a call that showed nothing may still be retried. Raises ProviderFault."""
        waiting = list(first)
        characters = Characters()
        answering, said_chars = False, 0
        try:
            response = await begin()
            answering = True
            async with response:
                async for event in response:
                    deltas = self._read(reader, characters, event, model)
                    if deltas and waiting:
                        deltas, waiting = [*waiting, *deltas], []
                    for delta in deltas:
                        yield delta
                    said_chars += sum(len(d.text) for d in deltas if isinstance(d, Growing))
                    if said_chars > MAX_ANSWER_CHARS:
                        raise TooLarge(f"it wrote more than {MAX_ANSWER_CHARS} characters and had not finished")
                if not reader.finished:  # half an answer must not pass for a whole one
                    raise self._broken(model, "the stream ended early")
                for delta in (*waiting, *characters.whole([*reader.notes(), reader.finish()])):
                    yield delta
        # The last two: the SDK's decoder, which is given whatever came.
        except (self.sdk.APIError, httpx2.HTTPError, ValueError, RecursionError) as error:
            raise self._fault(error, model, answering) from error

    def _read(self, reader: Reader, characters: Characters, event: Any, model: str) -> list[Delta]:
        """What `reader` makes of an event. The SDKs check no types, so a field may be anything that JSON can say."""
        try:
            return characters.whole(reader.feed(event))
        except (TypeError, AttributeError, LookupError) as error:
            raise self._not_understood(f"an event has another shape: {error}", model) from error

    def _fault(self, error: Any, model: str, answering: bool) -> ProviderFault:
        sdk = self.sdk
        cause = error.__cause__
        if isinstance(cause, ProviderFault):  # from our OAuth2, wrapped by the SDK
            return cause
        for problem in (error, cause):
            if isinstance(problem, TooLarge):
                return self._make(
                    f"model {model} was stopped: {problem}; ask for less at once, or set spec.maxOutputTokens", model
                )
        if isinstance(error, sdk.APITimeoutError | httpx2.TimeoutException) or isinstance(cause, httpx2.ReadTimeout):
            silent = "went silent in the middle of its answer" if answering else "gave no answer in time"
            return self._make(f"model {model} {silent}", model, kind="timeout", retryable=True)
        if isinstance(error, sdk.APIConnectionError | httpx2.HTTPError):
            if answering:
                return self._broken(model, self._quoted(cause or error))
            return self._make(
                f"cannot connect: {self._quoted(cause or error)}; check the provider's baseURL and that it is up",
                model,
                kind="connection_error",
                retryable=True,
                unheard=_nobody_listens(error),
            )
        if not isinstance(error, sdk.APIError) or isinstance(error, sdk.APIResponseValidationError):
            return self._not_understood(error, model)
        return self._refused(error, model)

    def _not_understood(self, error: object, model: str) -> ProviderFault:
        text = f"{self._where} did not answer in {self.format} ({self._quoted(error)}); {self.hint}"
        return ProviderReplyFault(text, provider=self.provider, model=model)

    def _refused(self, error: Any, model: str) -> ProviderFault:
        """The vendor said no: by an HTTP status, or by an error object inside the stream."""
        status = self.status_of(error)
        said = self._quoted(detail(error.body) or error.message)
        if status in (401, 403):
            # A 401 may quote the key; a 403 says what the key may not do.
            why = f": {said}" if status == 403 else ""
            return ProviderAuthFault(
                f"{self._where} refused the credentials (HTTP {status}){why}; set a valid key in {self.key_source}",
                provider=self.provider,
                model=model,
                status=status,
                kind="auth_error",
            )
        what = f"HTTP {status} from model {model}" if status is not None else f"model {model} failed"
        named = f" ({self._quoted(error.type)})" if getattr(error, "type", None) else ""
        kind, hint = kind_of(status), ""
        if status is not None and status < 400:
            where = getattr(getattr(error, "response", None), "headers", {}).get("location", "elsewhere")
            hint = (
                f"; it leads to {self._quoted(where)}, and redirects are not followed: set baseURL to where it answers"
            )
        elif status == 404:
            hint = f"; check that model {model} exists there and baseURL is right"
        elif status == 413 or (status == 400 and _TOO_LONG.search(f"{getattr(error, 'code', '')} {said}")):
            kind, hint = "too_long", "; the prompt, with what is attached to it, does not fit this model"
        response = getattr(error, "response", None)
        return self._make(
            f"{what}{named}: {said}{hint}",
            model,
            kind=kind,
            status=status,
            retryable=status is None or status in RETRYABLE_STATUS,
            retry_after_s=retry_after(response.headers, self.clock.now()) if response is not None else None,
        )

    def _broken(self, model: str, how: str) -> ProviderFault:
        text = f"the answer of model {model} broke off: {how}"
        return self._make(text, model, kind="connection_error", retryable=True)

    def _quoted(self, said: object) -> str:
        """What somebody else says, in one line and without the account's secrets."""
        return short(self.secrets.out_of(said) or said)

    @property
    def _where(self) -> str:
        return f"provider {self.provider} ({self.base_url})"

    def _make(self, text: str, model: str, **fields: Any) -> ProviderFault:
        return ProviderFault(f"{self._where}: {text}", provider=self.provider, model=model, **fields)


def _nobody_listens(error: BaseException | None) -> bool:
    """Whether the connection was refused, or its host is not there: somewhere in what the libraries wrapped."""
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            return any(map(_nobody_listens, error.exceptions))
        if isinstance(error, OSError) and error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
            return True
        error = error.__cause__ or error.__context__
    return False
