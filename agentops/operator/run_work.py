"""One AgentRun while it is being reconciled: as read, as decoded, and its status as it should become."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opentelemetry.trace import Link, get_current_span

from agentops.api.conditions import ConditionType, RunPhase
from agentops.api.defaults import timeout_s
from agentops.api.kinds import AGENT_RUN
from agentops.api.labels import PARENT_AGENT, RUN_FINALIZER, TRACEPARENT
from agentops.api.objects import decode
from agentops.api.types import Agent, AgentRun
from agentops.controller import Client, Request
from agentops.controller.finalizers import drop_finalizer, ensure_finalizer, has_finalizer
from agentops.controller.owners import controller_of
from agentops.operator.queue import RunView
from agentops.operator.status import StatusDraft
from agentops.telemetry.tracing import extract, inject, tracer
from agentops.values.clock import parse_rfc3339, rfc3339
from agentops.values.headers import value_problem

_tracer = tracer("operator.run")

DEFAULT_TIMEOUT_S = 1800.0
"""For an Agent whose own timeout cannot be read."""


class RunWork:
    """Reads are of the state when the reconcile began or last saved; `save` writes the draft, if it differs."""

    def __init__(self, obj: dict[str, Any], now: datetime) -> None:
        self.now = now
        self._load(obj)

    def _load(self, obj: dict[str, Any]) -> None:
        self.obj = obj
        self.run = decode(AgentRun, obj)
        self.draft = StatusDraft(AGENT_RUN, obj, self.now)

    # what it is

    @property
    def request(self) -> Request:
        return Request.of(self.obj)

    @property
    def name(self) -> str:
        return self.run.metadata.name

    @property
    def namespace(self) -> str:
        return self.run.metadata.namespace

    @property
    def uid(self) -> str:
        return self.run.metadata.uid

    @property
    def agent_key(self) -> tuple[str, str]:
        """Namespace and name of its Agent: what runs queue by."""
        return (self.namespace, self.run.spec.agent_ref)

    @property
    def phase(self) -> RunPhase:
        return RunPhase(self.run.status.phase or RunPhase.PENDING)

    @property
    def finished(self) -> bool:
        return self.phase.terminal

    @property
    def deleting(self) -> bool:
        return bool(self.run.metadata.deletion_timestamp)

    @property
    def admitted(self) -> bool:
        return self.run.status.admitted_at is not None

    @property
    def dispatched(self) -> bool:
        """Whether a daemon's pod may have the prompt, or a Job may exist."""
        return self.run.status.pod_uid is not None or self.run.status.job_name is not None

    @property
    def holds_finalizer(self) -> bool:
        return has_finalizer(self.obj, RUN_FINALIZER)

    @property
    def started_at(self) -> datetime:
        """When it was dispatched; now, when it was not."""
        return _time(self.run.status.start_time) or self.now

    def elapsed_s(self) -> float:
        return (self.now - self.started_at).total_seconds()

    def left_s(self, agent: Agent | None) -> float:
        """Seconds until the Agent's timeout; zero or less when it has passed."""
        return run_timeout_s(agent) - self.elapsed_s()

    def stopping_for_s(self) -> float:
        """Seconds since stopping, or deletion, was decided."""
        stopping = self.draft.has(ConditionType.STOPPING) or {}
        since = _time(self.run.metadata.deletion_timestamp) or _time(stopping.get("lastTransitionTime"))
        return (self.now - since).total_seconds() if since else 0.0

    def dispatch_trace(self, mode: str) -> str | None:
        """The traceparent of this dispatch: a span under the caller's, or the caller's own when nothing is traced.

        Without a caller's it is under the reconcile; with one the reconcile is linked, being in a trace of its own.
        """
        parent = self.run.metadata.annotations.get(TRACEPARENT)
        if extract(parent) is None:
            parent = None
        carried: dict[str, str] = {}
        reconcile = get_current_span().get_span_context()
        links = [Link(reconcile)] if parent and reconcile.is_valid else []
        with _tracer.start_as_current_span(f"operator.dispatch.{mode}", context=extract(parent), links=links) as span:
            span.set_attributes({"agentrun.name": self.name, "agent.mode": mode})
            inject(carried)
        return carried.get("traceparent") or parent

    @property
    def parent_agent(self) -> str | None:
        """Who asked for the run, if its annotation is a name that a header can carry."""
        parent = self.run.metadata.annotations.get(PARENT_AGENT)
        return parent if parent and not value_problem(parent) else None

    # writing

    async def save(self, client: Client) -> bool:
        """Write the status if it differs; whether it did. Raises Conflict when somebody wrote since."""
        self.draft.set(observedGeneration=self.run.metadata.generation)
        saved = await self.draft.save(client)
        if saved is None:
            return False
        self._load(saved)
        return True

    async def hold(self, client: Client) -> None:
        """Take the finalizer: from here on a deletion waits for us."""
        self.adopt(await ensure_finalizer(client, AGENT_RUN, self.obj, RUN_FINALIZER))

    async def release(self, client: Client) -> None:
        """Give the finalizer back."""
        left = await drop_finalizer(client, AGENT_RUN, self.obj, RUN_FINALIZER)
        if left is not None:
            self.adopt(left)

    def adopt(self, obj: dict[str, Any]) -> None:
        """Go on from a newer state of the object, with the draft as it is."""
        drafted = self.draft.fields
        self._load(obj)
        self.draft.fields = drafted

    def stamp(self) -> str:
        return rfc3339(self.now)


def view(obj: Mapping[str, Any]) -> RunView:
    """A run as admission sees it."""
    meta, status = obj["metadata"], obj.get("status") or {}
    finished = status.get("phase") in (RunPhase.SUCCEEDED, RunPhase.FAILED)
    wanted = not meta.get("deletionTimestamp") and not (obj.get("spec") or {}).get("cancel", False)
    return RunView(
        name=meta["name"],
        created=str(meta.get("creationTimestamp", "")),
        admitted=status.get("admittedAt") is not None,
        finished=finished,
        waiting=wanted,
    )


def belongs_to_namesake(obj: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether `obj` was made for another AgentRun of this name, which is gone: the garbage collector comes for it."""
    controller = controller_of(obj) or {}
    named = controller.get("kind") == AGENT_RUN.kind and controller.get("name") == run["metadata"]["name"]
    return named and controller.get("uid") != run["metadata"]["uid"]


def run_timeout_s(agent: Agent | None) -> float:
    """How long a run of this Agent may take, seconds."""
    try:
        return timeout_s(agent) if agent is not None else DEFAULT_TIMEOUT_S
    except ValueError:
        return DEFAULT_TIMEOUT_S


def _time(text: Any) -> datetime | None:
    return parse_rfc3339(str(text)) if text else None
