"""Every watch and every index of the operator, in one place.

| what changes            | who looks again                                  | through                         |
|-------------------------|--------------------------------------------------|---------------------------------|
| Provider                | itself; Agents that bind it                      | index Agent `provider`          |
| Secret (metadata)       | Providers and Agents that use it, Agents of      | indexes `secret` and `provider` |
|                         | those Providers                                  |                                 |
| ConfigMap (metadata)    | its Agent; Agents with it as a context file      | owner; index Agent `configmap`  |
| Agent                   | itself; Providers it binds and bound; its runs   | old and new refs; index `agent` |
| children of an Agent    | the Agent                                        | controller reference            |
| Pod of a daemon         | its Agent; the Agent's runs that are not over    | label; index `agent`            |
| Pod of a task           | its run                                          | label                           |
| Job                     | its run                                          | controller reference            |
| Event of a Job without  | the Job's run                                    | the Job's controller reference  |
| a pod                   |                                                  |                                 |
| AgentRun                | itself; it admits the next when it is over       | the agent's lock                |
| Service of a memory     | itself, for its token; Agents that name it       | index Agent `memory`            |
| a Secret `<name>-token` | the memory Service of that name                  | the name: it may be a user's    |
| somebody else's object  | the Agent in whose way it stands, or that needs  | obstacles                       |
|                         | it: ServiceAccount, Service of a memory          |                                 |
| answer of an agent pod  | the run                                          | follower                        |
| answer of an endpoint   | the Provider                                     | prober                          |

Of the runs those in progress come first, then those that wait, then those that are over: what holds a slot
must not stand in line behind the hundreds that wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agentops.api import labels
from agentops.api.kinds import AGENT, AGENT_RESOURCE, AGENT_RUN, AGENT_TOOL, CHANNEL, PROVIDER
from agentops.controller import Builder, Cache, Controller, EnqueueMapped, Manager, ObjectEvent, Request, Scope
from agentops.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENTS_V1,
    JOB,
    NETWORK_POLICY,
    POD,
    PVC,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
)
from agentops.operator.inputs import context_config_maps, secret_names
from agentops.operator.objects.names import token_secret
from agentops.operator.reconcilers.agent_run import RUNS_BY_AGENT, SLOTS_BY_AGENT
from agentops.operator.reconcilers.provider import AGENTS_BY_PROVIDER
from agentops.operator.reconcilers.task_runs import EVENTS_BY_JOB
from agentops.operator.review import COMPONENT_MEMORY, component
from agentops.operator.run_work import view
from agentops.values.kinds import Kind

Object = Mapping[str, Any]

_OURS = f"{labels.MANAGED_BY}={labels.OPERATOR}"

SCOPES: dict[Kind, Scope] = {
    DEPLOYMENT: Scope(labels=_OURS),
    PVC: Scope(labels=_OURS),
    POD: Scope(labels=_OURS),
    JOB: Scope(labels=_OURS),
    # Of all Jobs, since Events have no labels; but of those only that cannot make a pod, and for an hour.
    EVENTS_V1: Scope(fields="reason=FailedCreate,regarding.kind=Job"),
    NETWORK_POLICY: Scope(labels=_OURS),
    ROLE: Scope(labels=_OURS),
    ROLE_BINDING: Scope(labels=_OURS),
    SERVICE_ACCOUNT: Scope(labels=_OURS),
    SERVICE: Scope(labels=f"{labels.COMPONENT} in ({labels.COMPONENT_SERVICE},{COMPONENT_MEMORY})"),
    SECRET: Scope(metadata_only=True),
    # Users' context files carry no label of ours; of none of them more than the metadata is kept, and of the
    # outputs of runs not even that.
    CONFIG_MAP: Scope(labels=f"{labels.COMPONENT}!={labels.COMPONENT_OUTPUT}", metadata_only=True),
}
"""What the cache keeps of each built-in kind: never the whole cluster."""

UNCACHED = frozenset({SECRET, CONFIG_MAP})
"""Watched for changes, read live: the cache has only their metadata."""

INDEXES: tuple[tuple[Kind, str, Callable[[Object], Iterable[str]]], ...] = (
    (AGENT, AGENTS_BY_PROVIDER, lambda agent: [ref["name"] for ref in agent["spec"].get("providerRefs") or ()]),
    (AGENT, "secret", lambda agent: secret_names(agent["metadata"]["name"], agent["spec"])),
    (AGENT, "configmap", lambda agent: context_config_maps(agent["spec"])),
    (AGENT, "memory", lambda agent: _present((agent["spec"].get("memory") or {}).get("serverRef"))),
    (PROVIDER, "secret", lambda provider: provider_secret_names(provider["spec"])),
    (EVENTS_V1, EVENTS_BY_JOB, lambda event: _present((event.get("regarding") or {}).get("uid"))),
    (AGENT_RUN, RUNS_BY_AGENT, lambda run: [] if view(run).finished else [run["spec"]["agentRef"]]),
    (AGENT_RUN, SLOTS_BY_AGENT, lambda run: [run["spec"]["agentRef"]] if view(run).holds_slot else []),
)

WAITS, OVER = -1, -2
"""What the priority of a run's key is lowered by while it waits for a slot, and when it is over."""


class Reconciling(Protocol):
    async def reconcile(self, request: Request) -> Any: ...


def wire(
    manager: Manager,
    *,
    provider: Reconciling,
    agent: Reconciling,
    run: Reconciling,
    memory: Reconciling,
    inert: Mapping[Kind, Reconciling],
    agent_workers: int = 4,
    run_workers: int = 8,
) -> dict[str, Controller]:
    """Build the controllers, by name."""
    seen = Lookup(manager.cache)
    built = [
        Builder(manager)
        .named("provider")
        .for_(PROVIDER, (spec_changed,))
        .watches(SECRET, EnqueueMapped(seen.by_name(PROVIDER, "secret")), metadata_only=True)
        .watches(AGENT, EnqueueMapped(_bound_providers), (spec_changed,))
        .with_options(max_concurrent=2)
        .build(provider.reconcile),
        _agent_children(Builder(manager).named("agent").for_(AGENT, (spec_or_annotations_changed,)))
        .watches(PROVIDER, EnqueueMapped(seen.by_name(AGENT, AGENTS_BY_PROVIDER)))
        .watches(SECRET, EnqueueMapped(seen.agents_of_secret), metadata_only=True)
        .watches(CONFIG_MAP, EnqueueMapped(seen.by_name(AGENT, "configmap")), metadata_only=True)
        .watches(SERVICE, EnqueueMapped(seen.by_name(AGENT, "memory")))
        .watches(POD, EnqueueMapped(_agent_of_pod))
        .with_options(max_concurrent=agent_workers)
        .build(agent.reconcile),
        Builder(manager)
        .named("agentrun")
        .for_(AGENT_RUN, urgency=_run_urgency)
        .owns(JOB)
        .watches(AGENT, EnqueueMapped(seen.by_name(AGENT_RUN, RUNS_BY_AGENT), lambda event: WAITS))
        .watches(POD, EnqueueMapped(seen.runs_of_pod, _pod_urgency))
        .watches(EVENTS_V1, EnqueueMapped(seen.runs_of_event))
        .with_options(max_concurrent=run_workers)
        .build(run.reconcile),
        Builder(manager)
        .named("memory")
        .for_(SERVICE, (_is_memory,))
        .watches(SECRET, EnqueueMapped(_service_of_token), metadata_only=True)
        .build(memory.reconcile),
        *(
            Builder(manager).named(kind.kind.lower()).for_(kind, (spec_changed,)).build(inert[kind].reconcile)
            for kind in (AGENT_TOOL, AGENT_RESOURCE, CHANNEL)
        ),
    ]
    for kind, name, function in INDEXES:
        manager.cache.add_index(kind, name, function)
    return {controller.name: controller for controller in built}


def _agent_children(builder: Builder) -> Builder:
    for kind in (DEPLOYMENT, SERVICE, PVC, NETWORK_POLICY, SERVICE_ACCOUNT, ROLE, ROLE_BINDING):
        builder.owns(kind)
    return builder.owns(CONFIG_MAP, metadata_only=True).owns(SECRET, metadata_only=True)


class Lookup:
    """Index lookups for the mappings: synchronous, in what the cache holds now."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def by_name(self, kind: Kind, index: str) -> Callable[[Object], Iterable[Request]]:
        """Objects of `kind` in the namespace of the one that changed, whose index holds its name."""

        def requests(changed: Object) -> Iterable[Request]:
            meta = changed["metadata"]
            return self._find(kind, meta["namespace"], index, meta["name"])

        return requests

    def agents_of_secret(self, secret: Object) -> Iterable[Request]:
        """Agents that use it, and those that use it through a Provider: a new key changes no Provider's status."""
        meta = secret["metadata"]
        found = self._find(AGENT, meta["namespace"], "secret", meta["name"])
        for provider in self._find(PROVIDER, meta["namespace"], "secret", meta["name"]):
            found += self._find(AGENT, meta["namespace"], AGENTS_BY_PROVIDER, provider.name)
        return found

    def runs_of_pod(self, pod: Object) -> Iterable[Request]:
        """The run of a task's pod, or the runs that wait for, or are in, a daemon's pod."""
        meta = pod["metadata"]
        labelled = meta.get("labels") or {}
        if component(pod) == labels.COMPONENT_TASK_RUN:
            return [Request(meta["namespace"], labelled[labels.RUN])] if labels.RUN in labelled else []
        return self._find(AGENT_RUN, meta["namespace"], RUNS_BY_AGENT, labelled.get(labels.AGENT, ""))

    def runs_of_event(self, event: Object) -> Iterable[Request]:
        """The run of the Job that the Event is about; a Job that is not cached yet wakes it when it comes."""
        regarding = event.get("regarding") or {}
        entry = self._cache.lookup(JOB, started=False).get((regarding.get("namespace", ""), regarding.get("name", "")))
        if entry is None or entry.meta.uid != regarding.get("uid"):
            return []
        return [
            Request(entry.key[0], owner.name)
            for owner in entry.meta.owner_references or ()
            if owner.controller and owner.kind == AGENT_RUN.kind
        ]

    def _find(self, kind: Kind, namespace: str, index: str, value: str) -> list[Request]:
        entries = self._cache.lookup(kind, started=False).list(namespace, index=(index, value))
        return [Request(*entry.key) for entry in entries]


def provider_secret_names(spec: Object) -> list[str]:
    """Names of the Secrets a Provider (a raw spec) uses."""
    grant = (spec.get("endpoint") or {}).get("oauth2ClientCredentials") or {}
    refs = [spec.get("apiKeySecret"), grant.get("clientIdSecret"), grant.get("clientSecretSecret")]
    return sorted({ref["name"] for ref in refs if ref})


def spec_changed(event: ObjectEvent) -> bool:
    """Everything but updates of the status."""
    if event.type != "update" or event.old is None or event.new is None or event.resync:
        return True
    old, new = event.old.meta, event.new.meta
    return old.generation != new.generation or old.deletion_timestamp != new.deletion_timestamp


def spec_or_annotations_changed(event: ObjectEvent) -> bool:
    """Also annotations: one of them asks for an upgrade."""
    if spec_changed(event) or event.old_object is None:
        return True
    return _annotations(event.old_object) != _annotations(event.object)


def _annotations(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def _bound_providers(agent: Object) -> list[Request]:
    """Called for both states of an update, so a Provider that is no longer bound hears of it too."""
    namespace = agent["metadata"]["namespace"]
    return [Request(namespace, ref["name"]) for ref in agent["spec"].get("providerRefs") or ()]


def _agent_of_pod(pod: Object) -> list[Request]:
    meta = pod["metadata"]
    agent = (meta.get("labels") or {}).get(labels.AGENT)
    return [Request(meta["namespace"], agent)] if agent and component(pod) == labels.COMPONENT_RUNTIME else []


def _run_urgency(event: ObjectEvent) -> int:
    run = view(event.object)
    if run.finished:
        return OVER
    return 0 if run.admitted or not run.waiting else WAITS


def _pod_urgency(event: ObjectEvent) -> int:
    """A task's pod wakes its own run, a daemon's all that wait for it."""
    return 0 if component(event.object) == labels.COMPONENT_TASK_RUN else WAITS


def _service_of_token(secret: Object) -> list[Request]:
    """By name: a user's own token is nobody's child, and when it goes the Service gets one of ours."""
    meta, suffix = secret["metadata"], token_secret("")
    return [Request(meta["namespace"], meta["name"].removesuffix(suffix))] if meta["name"].endswith(suffix) else []


def _is_memory(event: ObjectEvent) -> bool:
    return component(event.object) == COMPONENT_MEMORY


def _present(name: str | None) -> list[str]:
    return [name] if name else []
