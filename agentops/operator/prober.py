"""Does a Provider's endpoint answer, and does it take the key? Asked in the background, told in a condition.

A Provider is asked once per generation and Secret change, then every five minutes; sooner, with a
growing wait, while it does not answer well, so that a server that comes up late is soon seen. It never
holds anything back: clusters that forbid the operator egress see `EndpointReachable` False, and agents run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.abc
import httpx2
from attrs import field, frozen

from agentops.api.conditions import Reason
from agentops.controller import Request
from agentops.operator.inbox import Inbox
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("operator.prober")

TIMEOUT_S = 5.0
INTERVAL_S = 300.0
FIRST_RETRY_S = 15.0


@frozen(slots=True, kw_only=True)
class Probe:
    """One question. `fingerprint` is what it was asked about: another one is another question."""

    request: Request
    fingerprint: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    authenticated: bool
    """Whether `headers` hold credentials; without, 401 is an expected answer."""
    fix: str
    """What to do about 401, naming object and field."""


@frozen(slots=True, kw_only=True)
class Finding:
    """The last answer."""

    fingerprint: str
    status: bool
    reason: Reason
    message: str
    again_at_s: float
    """When it should be asked again, boot time in seconds."""
    failures: int
    """How many bad answers to this question in a row."""


class EndpointProber:
    """Add `run` to the manager; ask and read from the reconciler. One question per Provider at a time."""

    def __init__(self, http: Callable[[], httpx2.AsyncClient], wake: Callable[[Request], None], clock: Clock) -> None:
        self._http = http
        self._wake = wake
        self._clock = clock
        self._questions: Inbox[Probe] = Inbox()
        self._asked: dict[Request, str] = {}
        self._findings: dict[Request, Finding] = {}

    def finding(self, request: Request, fingerprint: str) -> Finding | None:
        """The answer to that very question, however old; None when there is none yet."""
        found = self._findings.get(request)
        return found if found is not None and found.fingerprint == fingerprint else None

    def due_in_s(self, request: Request, fingerprint: str) -> float:
        """Seconds until the question should be asked again; 0 is now."""
        found = self.finding(request, fingerprint)
        return 0.0 if found is None else max(0.0, found.again_at_s - self._clock.boottime())

    def ask(self, probe: Probe) -> None:
        """Ask in the background; the answer wakes the Provider. The same question is not asked twice at once."""
        if self._asked.get(probe.request) != probe.fingerprint:
            self._asked[probe.request] = probe.fingerprint
            self._questions.put(probe)

    def forget(self, request: Request) -> None:
        self._asked.pop(request, None)
        self._findings.pop(request, None)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with self._http() as http, anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                tasks.start_soon(self._answer, http, await self._questions.get())

    async def _answer(self, http: httpx2.AsyncClient, probe: Probe) -> None:
        status, reason, message = await check(http, probe)
        if self._asked.get(probe.request) != probe.fingerprint:
            return
        del self._asked[probe.request]
        before = self.finding(probe.request, probe.fingerprint)
        failures = 0 if status else (before.failures if before else 0) + 1
        wait_s = min(INTERVAL_S, FIRST_RETRY_S * 2 ** (failures - 1)) if failures else INTERVAL_S
        self._findings[probe.request] = Finding(
            fingerprint=probe.fingerprint,
            status=status,
            reason=reason,
            message=message,
            again_at_s=self._clock.boottime() + wait_s,
            failures=failures,
        )
        self._wake(probe.request)


async def check(http: httpx2.AsyncClient, probe: Probe) -> tuple[bool, Reason, str]:
    """One GET. Any answer below 500 but 401 and 403 shows that somebody listens and lets us in."""
    try:
        with anyio.fail_after(TIMEOUT_S):
            # The status is the answer: a body may have no end, or be a bomb.
            async with http.stream("GET", probe.url, headers=dict(probe.headers), timeout=TIMEOUT_S) as response:
                code = response.status_code
    except TimeoutError:
        return False, Reason.UNREACHABLE, f"GET {probe.url}: no answer within {TIMEOUT_S:g} s; {_CHECK_URL}"
    except (httpx2.LocalProtocolError, UnicodeError):
        # The error quotes what could not be sent, which may be a key.
        return False, Reason.UNREACHABLE, f"GET {probe.url}: {_UNSENDABLE}"
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return False, Reason.UNREACHABLE, f"GET {probe.url}: {_said(error, probe)}; {_CHECK_URL}"
    except Exception as error:
        # One Provider's endpoint must not end the questions about all others, whatever the libraries make of it.
        log.warning("probe.failed", url=probe.url, error=type(error).__name__)
        return False, Reason.UNREACHABLE, f"GET {probe.url}: {_UNSENDABLE} ({type(error).__name__})"
    if code in (401, 403) and probe.authenticated:
        return False, Reason.UNAUTHORIZED, f"GET {probe.url} answered {code}; {probe.fix}"
    if code in (401, 403):
        return True, Reason.REACHABLE, f"{probe.url} answers, and asks for the credentials that agents send"
    if code >= 500:
        return False, Reason.UNREACHABLE, f"GET {probe.url} answered {code}; {_CHECK_URL}"
    return True, Reason.REACHABLE, f"{probe.url} answers"


def _said(error: Exception, probe: Probe) -> str:
    said = str(error) or type(error).__name__
    for value in probe.headers.values():
        for secret in (value, value.removeprefix("Bearer ")):
            said = said.replace(secret, "…") if secret else said
    return said


_UNSENDABLE = "the request cannot be sent; check spec.endpoint.headers and the Secrets that are named"
_CHECK_URL = "check spec.endpoint.baseURL and that the server runs"
