"""Faults of a real API server and the network in front of it, as middleware.

    chaos = Chaos(server, parse("throttle verb=list p=0.1; half-open verb=watch times=1"))
    with chaos:                        every request goes through the rules, in their order
        ...

Everything random comes from one injected generator, so a seed repeats a run exactly. Works for the
in-process transport and over sockets: a connection that breaks is `Disconnected`, a TransportError for
callers in this process and a TCP reset in the shell. docs/chaos.md is the reference of the text form.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.lowlevel
import orjson
from attrs import evolve, frozen

from agentops.kube.errors import TransportError
from agentops.local.apiserver import errors
from agentops.local.apiserver.http import ANONYMOUS, Answer, Handler, Request, Response, Stream
from agentops.local.apiserver.routing import attributes
from agentops.local.apiserver.routing import parse as parse_path
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

log = get_logger("apiserver.chaos")

_EVENTS_BEFORE = 4
"""Without `after`, a stream goes wrong at one of its first so many events."""
_PIECES = 7
"""A split slice becomes at most so many pieces."""


class Disconnected(TransportError):
    """The connection broke: no complete answer, and nobody knows whether the request was done."""


class ChaosSpecError(ValueError):
    """The text of a rule is not understood; the message names the rule and what is possible."""


class Fault(StrEnum):
    """What can go wrong. The first group ends a request, the second spoils an answer on its way."""

    DELAY = "delay"
    THROTTLE = "throttle"
    ERROR = "error"
    UNAUTHORIZED = "unauthorized"
    EXPIRE = "expire"
    RESET_BEFORE = "reset-before"

    RESET_AFTER = "reset-after"
    TRUNCATE = "truncate"
    HALF_OPEN = "half-open"
    SPLIT = "split"
    DUPLICATE = "duplicate"
    DROP_BOOKMARK = "drop-bookmark"
    ERROR_EVENT = "error-event"


_ONLY_WATCHES = frozenset({Fault.DUPLICATE, Fault.DROP_BOOKMARK, Fault.ERROR_EVENT})


@frozen(slots=True, eq=False)
class Rule:
    """One fault, and which requests it happens to. Patterns are shell patterns.

    `verb` is the API verb (get, list, watch, create, update, patch, delete, deletecollection) or
    `watchlist`, a watch that begins with a list. `resource` is the plural, with `.group` for kinds that
    need it; a path such as `/version` names what is no resource. `p` is the chance per request, `times`
    bounds how often it happens (None: always).
    """

    fault: Fault
    verb: str = "*"
    resource: str = "*"
    namespace: str = "*"
    user: str = "*"
    p: float = 1.0
    times: int | None = None
    seconds: float | None = None
    """How long a `delay` is, and the Retry-After of `throttle` (both 1) and `error` (none)."""
    code: int = 500
    """Of `error` and `error-event`: the HTTP status, for example 500, 503 or 410."""
    after: int | None = None
    """How many events of a stream come through first; None: a random few."""

    @property
    def name(self) -> str:
        return self.fault.value


class Chaos:
    """Rules at work on one server. Inert until `install` (or `with`); `rules` may be changed at any time."""

    def __init__(
        self,
        server: ApiServer,
        rules: Iterable[Rule] = (),
        *,
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rules = list(rules)
        self.active = True
        """While false, everything passes, streams that were to go wrong included."""
        self.fired: Counter[str] = Counter()
        """How often each fault has happened."""
        self._server = server
        self._rng = rng or random.Random()
        self._clock = clock or SystemClock()
        self._used: Counter[Rule] = Counter()

    def install(self) -> None:
        """Begin. Faults come before authentication, as those of a network do."""
        self._server.middleware.append(self)

    def remove(self) -> None:
        """End, also for streams that are open."""
        self.active = False
        if self in self._server.middleware:
            self._server.middleware.remove(self)

    def happened(self, rule: Rule) -> int:
        """How often one rule's fault has happened."""
        return self._used[rule]

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    async def __call__(self, request: Request, call_next: Handler) -> Answer:
        """One request. Raises Disconnected."""
        rules = self._drawn(request)
        for rule in rules:
            answer = await self._instead(rule, request, call_next)
            if answer is not None:
                return answer
        answer = await call_next(request)
        for rule in sorted(rules, key=lambda rule: _ORDER.get(rule.fault, 0)):
            answer = self._spoiled(rule, request, answer)
        return answer

    # choosing

    def _drawn(self, request: Request) -> list[Rule]:
        if not self.active or not self.rules:
            return []
        return [r for r in self.rules if self._may(r) and self._matches(r, request) and self._rng.random() < r.p]

    def _matches(self, rule: Rule, request: Request) -> bool:
        about = attributes(request, parse_path(request.path))
        if rule.resource.startswith("/"):
            return fnmatchcase(about.path, rule.resource) and rule.verb in ("*", about.verb)
        if not about.is_resource:
            return False
        verb = "watchlist" if about.verb == "watch" and request.arg("sendInitialEvents") == "true" else about.verb
        if not fnmatchcase(verb, rule.verb) and rule.verb != about.verb:
            return False
        if rule.fault in _ONLY_WATCHES and about.verb != "watch":
            return False
        resource = f"{about.resource}.{about.group}" if about.group else about.resource
        if not (fnmatchcase(about.resource, rule.resource) or fnmatchcase(resource, rule.resource)):
            return False
        if not fnmatchcase(about.namespace, rule.namespace):
            return False
        return rule.user == "*" or fnmatchcase(self._user(request), rule.user)

    def _user(self, request: Request) -> str:
        try:
            return self._server.authenticator.authenticate(request).name
        except errors.ApiFailure:
            return ANONYMOUS.name

    def _may(self, rule: Rule) -> bool:
        return self.active and (rule.times is None or self._used[rule] < rule.times)

    def _fire(self, rule: Rule, request: Request) -> bool:
        """Whether the fault happens now, when it does counted and logged."""
        if not self._may(rule):
            return False
        self._used[rule] += 1
        self.fired[rule.name] += 1
        log.info("chaos.fault", fault=rule.name, method=request.method, path=request.path)
        return True

    # faults instead of an answer

    async def _instead(self, rule: Rule, request: Request, call_next: Handler) -> Answer | None:
        fault = rule.fault
        if fault is Fault.DELAY:
            if self._fire(rule, request):
                await self._clock.sleep(1.0 if rule.seconds is None else rule.seconds)
        elif fault is Fault.EXPIRE:
            if self._fire(rule, request):
                self._server.store.compact(self._server.store.revision)
        elif fault is Fault.THROTTLE:
            if self._fire(rule, request):
                return _refusal(429, "TooManyRequests", 1.0 if rule.seconds is None else rule.seconds)
        elif fault is Fault.UNAUTHORIZED:
            if self._fire(rule, request):
                return _refusal(401, "Unauthorized", None)
        elif fault is Fault.ERROR:
            if self._fire(rule, request):
                return _refusal(rule.code, _REASONS.get(rule.code, "InternalError"), rule.seconds)
        elif fault is Fault.RESET_BEFORE and self._fire(rule, request):
            if self._rng.random() < 0.5:  # done, and only the answer is lost
                answer = await call_next(request)
                if isinstance(answer, Stream):
                    await _close(answer.open())
            raise _reset(request)
        return None

    # faults of an answer

    def _spoiled(self, rule: Rule, request: Request, answer: Answer) -> Answer:
        if rule.fault not in _SPOILERS or not isinstance(answer, Response | Stream):
            return answer
        if isinstance(answer, Stream):
            opened = answer.open

            def open_spoiled() -> AsyncIterator[bytes]:
                inner = opened()
                return _Body(self._stream(rule, request, inner), inner)

            return evolve(answer, open=open_spoiled)
        if answer.status >= 400 or not answer.body or not self._fire(rule, request):
            return answer
        cut = answer.body[: self._rng.randrange(len(answer.body))]
        if rule.fault is Fault.TRUNCATE:
            return Response(answer.status, cut, answer.headers)
        headers = {**answer.headers, "content-length": str(len(answer.body))}
        if rule.fault is Fault.SPLIT:
            return Stream(lambda: self._pieces(answer.body), answer.status, headers)
        return Stream(lambda: self._broken(rule, request, cut), answer.status, headers)

    async def _broken(self, rule: Rule, request: Request, cut: bytes) -> AsyncGenerator[bytes, None]:
        """The beginning of a body, and then what the fault does."""
        yield cut
        if rule.fault is Fault.HALF_OPEN:
            await anyio.sleep_forever()
        if rule.fault is Fault.RESET_AFTER:
            raise _reset(request)

    async def _stream(self, rule: Rule, request: Request, inner: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`inner` with the fault at one of its events, or at all of them."""
        once = rule.fault in (Fault.RESET_AFTER, Fault.TRUNCATE, Fault.HALF_OPEN, Fault.ERROR_EVENT)
        left: float = self._rng.randrange(_EVENTS_BEFORE) if rule.after is None else rule.after
        async for chunk in inner:
            if not chunk or not self._may(rule):
                yield chunk
                continue
            passed: list[bytes] = []
            for line in chunk.splitlines(keepends=True):
                if left > 0:
                    left -= 1
                    passed.append(line)
                elif not once:
                    passed.append(self._changed(rule, request, line))
                elif self._fire(rule, request):
                    left = math.inf
                    if rule.fault is Fault.ERROR_EVENT:
                        yield b"".join([*passed, _error_event(rule.code)])
                        return
                    broken = self._broken(rule, request, b"".join(passed) + self._part(line))
                    async with aclosing(broken):
                        async for part in broken:
                            yield part
                    return
                else:
                    passed.append(line)
            if rule.fault is Fault.SPLIT and self._fire(rule, request):
                pieces = self._pieces(b"".join(passed))
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
            elif passed:
                yield b"".join(passed)

    def _changed(self, rule: Rule, request: Request, line: bytes) -> bytes:
        bookmark = line.startswith(b'{"type":"BOOKMARK"')
        if rule.fault is Fault.DROP_BOOKMARK and bookmark and self._fire(rule, request):
            return b""
        if rule.fault is Fault.DUPLICATE and not bookmark and self._rng.random() < 0.5 and self._fire(rule, request):
            return line + line
        return line

    def _part(self, line: bytes) -> bytes:
        """Some of an event: nothing, or up to somewhere within it."""
        return line[: self._rng.randrange(len(line))]

    async def _pieces(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """`body` in pieces, cut inside of UTF-8 sequences when it has any."""
        inside = [at for at, byte in enumerate(body) if 0x80 <= byte < 0xC0]
        count = min(len(body), self._rng.randint(1, _PIECES))
        cuts = {self._rng.choice(inside) if inside and n % 2 else self._rng.randrange(len(body)) for n in range(count)}
        start = 0
        for cut in sorted({*cuts, len(body)}):
            if cut > start:
                yield body[start:cut]
                await anyio.lowlevel.checkpoint()
            start = cut


class _Body:
    """A spoiled stream; closing it closes the stream below, also when it was never read."""

    def __init__(self, outer: AsyncIterator[bytes], inner: AsyncIterator[bytes]) -> None:
        self._outer = outer
        self._inner = inner

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._outer.__anext__()

    async def aclose(self) -> None:
        await _close(self._outer)
        await _close(self._inner)


_ORDER = {Fault.RESET_AFTER: 1, Fault.TRUNCATE: 1, Fault.HALF_OPEN: 1, Fault.SPLIT: 2}
"""What is about whole events comes before what cuts them: nothing else may be damaged than is asked for."""
_SPOILERS = frozenset({Fault.RESET_AFTER, Fault.TRUNCATE, Fault.HALF_OPEN, Fault.SPLIT, *_ONLY_WATCHES})
_REASONS = {403: "Forbidden", 404: "NotFound", 410: "Expired", 429: "TooManyRequests", 503: "ServiceUnavailable",
            504: "Timeout"}  # fmt: skip


def _failure(code: int, reason: str) -> errors.ApiFailure:
    return errors.ApiFailure(code, reason, f"injected: {reason}")


def _refusal(code: int, reason: str, retry_after_s: float | None) -> Response:
    failure = _failure(code, reason)
    headers = {"content-type": "application/json"}
    if retry_after_s is not None:
        seconds = max(1, math.ceil(retry_after_s))
        failure.details["retryAfterSeconds"] = seconds
        headers["retry-after"] = str(seconds)
    return Response(code, orjson.dumps(failure.status()), headers)


def _error_event(code: int) -> bytes:
    status = _failure(code, _REASONS.get(code, "InternalError")).status()
    return b'{"type":"ERROR","object":%b}\n' % orjson.dumps(status)


def _reset(request: Request) -> Disconnected:
    error = Disconnected(f"{request.method} {request.path}: injected connection reset")
    error.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    return error


async def _close(body: AsyncIterator[bytes]) -> None:
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()


# the text form


def parse(text: str) -> list[Rule]:
    """Rules of a text such as `throttle verb=list p=0.1; reset-after verb=watch`. Raises ChaosSpecError.

    `seed=N` as a part of its own is `parse_seed`'s.
    """
    rules = [_rule(part) for part in _parts(text) if not part.startswith("seed=")]
    if not rules:
        raise ChaosSpecError(f"{text!r} has no rule; write a fault, for example `throttle verb=list p=0.1`")
    return rules


def parse_seed(text: str) -> int | None:
    """The seed a text asks for. Raises ChaosSpecError."""
    for part in _parts(text):
        if part.startswith("seed="):
            try:
                return int(part.removeprefix("seed="))
            except ValueError:
                raise ChaosSpecError(f"{part!r}: the seed is a whole number") from None
    return None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _rule(part: str) -> Rule:
    name, *words = part.split()
    try:
        fault = Fault(name)
    except ValueError:
        raise ChaosSpecError(f"{part!r}: there is no fault {name!r}; there are {', '.join(Fault)}") from None
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        read = _READERS.get(key)
        if not equals or read is None:
            raise ChaosSpecError(f"{part!r}: {word!r} is not understood; settings are {', '.join(_READERS)}")
        try:
            given[key] = read(value)
        except ValueError as error:
            raise ChaosSpecError(f"{part!r}: {word!r}: {error}") from None
    return Rule(fault, **given)


def _chance(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("a chance is between 0 and 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("it must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("seconds must not be negative")
    return value


def _status(text: str) -> int:
    value = int(text)
    if not 400 <= value <= 599:
        raise ValueError("a code is between 400 and 599")
    return value


_READERS: dict[str, Any] = {
    "verb": str,
    "resource": str,
    "namespace": str,
    "user": str,
    "p": _chance,
    "times": _count,
    "seconds": _seconds,
    "code": _status,
    "after": _count,
}
