"""Agent: its children, what they are made from, and whether it can be used.

Guarantees
    A blocker (a missing Provider, Secret or file) and an invalid spec hold back the first creation and
    roll-outs only: children that exist are kept as they were last rendered. After a restart of the
    operator that memory is gone, and until the blocker goes the roll-out's children are left alone.
    Objects of somebody else are never touched.
    What waits for such an object to go is woken when it does.
    No edit of a spec deletes data: a claim that the spec no longer wants is kept, and goes with the Agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from agentops.api import labels
from agentops.api.conditions import AgentPhase, ConditionType, Reason
from agentops.api.kinds import AGENT
from agentops.api.objects import DecodeError, decode
from agentops.api.types import Agent
from agentops.api.variables import reserved_in
from agentops.controller import Client, EventRecorder, ForeignObject, Request
from agentops.controller.owners import is_controlled_by
from agentops.kube.errors import ApiError, NotFound
from agentops.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD,
    PVC,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
)
from agentops.operator import plan
from agentops.operator.children import KINDS, ChildWriter
from agentops.operator.objects import names
from agentops.operator.objects.deployment import selector
from agentops.operator.objects.env import Endpoints
from agentops.operator.objects.meta import child_labels
from agentops.operator.objects.security import compute_violations
from agentops.operator.obstacles import Obstacle, Obstacles
from agentops.operator.plan import Manifest, Rendering
from agentops.operator.reconcilers.fields import report_fields
from agentops.operator.review import Review, Reviewer
from agentops.operator.rollout import COUNTS, Workload, observe
from agentops.operator.secrets import TokenKeeper
from agentops.operator.status import StatusDraft
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock
from agentops.values.kinds import Kind
from agentops.values.quantity import quantities_equal

log = get_logger("operator.agent")

SWEPT: tuple[Kind, ...] = (DEPLOYMENT, SERVICE, NETWORK_POLICY, ROLE_BINDING, ROLE, SERVICE_ACCOUNT)
"""Kinds of children that go when a spec stops wanting them, in the order in which they are deleted.

Claims are not among them: they hold conversations and files, and `storage` may be missing by an oversight.
"""

_USES: Mapping[str, frozenset[str]] = {
    ROLE_BINDING.kind: frozenset({SERVICE_ACCOUNT.kind, ROLE.kind}),
    DEPLOYMENT.kind: frozenset({SERVICE_ACCOUNT.kind, PVC.kind, NETWORK_POLICY.kind, CONFIG_MAP.kind}),
}
"""Children that would use an object of somebody else, were one there in place of these: they wait for it to go."""


@define(slots=True)
class _Story:
    """One reconcile: what was read and what came of it."""

    obj: dict[str, Any]
    agent: Agent
    draft: StatusDraft
    review: Review | None = None
    rendering: Rendering | None = None
    """What stands or is being rolled out; None when nothing may be made."""
    children: list[Manifest] = field(factory=list)
    problems: list[tuple[str, str]] = field(factory=list)
    """(reason, message) of children that could not be applied."""
    obstacles: list[Obstacle] = field(factory=list)
    """Objects of somebody else in the place of children, and missing ones that are theirs to make."""
    failure: Exception | None = None
    """Why this reconcile must be tried again, once the status is written."""

    @property
    def blocked(self) -> bool:
        return self.review is None or not self.review.complete


class AgentReconciler:
    """Daemons become a Deployment with everything around it, tasks a template for Jobs."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        tokens: TokenKeeper,
        clock: Clock,
        *,
        runtime_image: str,
        endpoints: Endpoints,
        operator_namespace: str,
        obstacles: Obstacles,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._tokens = tokens
        self._clock = clock
        self._runtime_image = runtime_image
        self._endpoints = endpoints
        self._operator_namespace = operator_namespace
        self._obstacles = obstacles
        self._reviewer = Reviewer(client)
        self._children = ChildWriter(client)
        self._last_good: dict[Request, tuple[str, Rendering]] = {}

    async def reconcile(self, request: Request) -> None:
        found = await self._client.try_get(AGENT, request.name, request.namespace)
        if found is None or found["metadata"].get("deletionTimestamp"):
            self._last_good.pop(request, None)  # the children go with the Agent, by their owner references
            self._obstacles.expect(request, ())
            return
        try:
            story = self._open(found)
        except DecodeError as error:
            await self._tell_unreadable(found, error)
            return
        own = await self._token(story)
        if own is not None:
            story.review = await self._reviewer.review(story.agent, own)
            story.obstacles += story.review.missing
            if story.review.memory_bearer is not None or story.agent.spec.memory is None:
                await self._tokens.derive(story.obj, own, names.MEMORY_TOKEN_KEY, story.review.memory_bearer)
            story.rendering = await self._render(story)
            await self._apply(story)
            await self._sweep(story)
        await self._tell(story)
        await story.draft.save(self._client)
        self._obstacles.expect(request, story.obstacles)
        if story.failure is not None:
            raise story.failure

    def _open(self, found: dict[str, Any]) -> _Story:
        return _Story(obj=found, agent=decode(Agent, found), draft=StatusDraft(AGENT, found, self._clock.now()))

    async def _token(self, story: _Story) -> dict[str, bytes] | None:
        """The agent's bearer and the salt of its digests, made if need be; None when the Secret is not ours."""
        labelled = child_labels(story.agent.metadata.name, labels.COMPONENT_TOKEN)
        try:
            made = (names.TOKEN_KEY, names.SALT_KEY)
            return await self._tokens.ensure(story.obj, labelled, made, (names.MEMORY_TOKEN_KEY,))
        except ForeignObject as error:
            meta = story.agent.metadata
            story.problems.append((Reason.FOREIGN_OBJECT, str(error)))
            story.obstacles.append(Obstacle(SECRET, meta.namespace, names.token_secret(meta.name)))
            return None

    async def _render(self, story: _Story) -> Rendering | None:
        """The children of the roll-out: from current inputs, or the last good ones while something is in the way."""
        assert story.review is not None
        agent, request = story.agent, Request.of(story.obj)
        uid, last_good = self._last_good.get(request, ("", None))
        if uid != agent.metadata.uid:
            last_good = None
        if not story.review.complete:
            return last_good
        image = plan.resolve_image(agent, self._runtime_image)
        try:
            rendering = plan.render(agent, story.review.inputs, image, self._endpoints)
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # pure: another try ends the same way
            log.exception("agent.not-rendered", agent=str(request))
            story.problems.append((Reason.RENDER_FAILED, f"nothing can be made of this spec: {error}"))
            return last_good
        self._last_good[request] = (agent.metadata.uid, rendering)
        return rendering

    async def _apply(self, story: _Story) -> None:
        """Create what is missing, repair what drifted, write nothing that is as it should be."""
        assert story.review is not None
        if not story.review.problems:
            story.children += plan.standing_children(story.agent, self._operator_namespace)
        if story.rendering is not None:
            live = await self._rolled(story.agent)
            if not plan.only_rendered_differently(story.rendering, story.agent, live):
                self._announce(story, live)
                story.children += story.rendering.children
        foreign: set[str] = set()
        for child in story.children:
            if foreign & _USES.get(child["kind"], frozenset()):
                continue
            try:
                await self._children.ensure(child, story.obj)
            except ForeignObject as error:
                meta = child["metadata"]
                foreign.add(child["kind"])
                story.problems.append((Reason.FOREIGN_OBJECT, str(error)))
                story.obstacles.append(Obstacle(KINDS[child["kind"]], meta["namespace"], meta["name"]))
            except ApiError as error:
                what = f"{child['kind']} {child['metadata']['namespace']}/{child['metadata']['name']}"
                story.problems.append((Reason.APPLY_FAILED, f"{what}: {error.message}"))
                story.failure = story.failure or error

    async def _rolled(self, agent: Agent) -> dict[str, Any] | None:
        """The live object that says which inputs stand: the Deployment, or a task's ConfigMap."""
        name, namespace = agent.metadata.name, agent.metadata.namespace
        if agent.spec.mode == "daemon":
            return await self._client.try_get(DEPLOYMENT, name, namespace)
        return await self._client.try_get(CONFIG_MAP, names.config_map(name), namespace)

    def _announce(self, story: _Story, live: Mapping[str, Any] | None) -> None:
        assert story.rendering is not None
        before = ((live or {}).get("metadata") or {}).get("annotations", {}).get(labels.CONFIG_HASH)
        if live is not None and before != story.rendering.config_hash:
            message = f"Configuration {story.rendering.config_hash} replaces {before}"
            self._recorder.event(story.obj, "Normal", Reason.ROLLING_OUT, message)
            log.info("agent.rollout", agent=str(Request.of(story.obj)), hash=story.rendering.config_hash)

    async def _sweep(self, story: _Story) -> None:
        """Delete children that the spec no longer wants: ours by label, and the Agent's by controller."""
        assert story.review is not None
        if story.review.problems:
            return
        wanted = plan.child_names(story.agent)
        name, namespace = story.agent.metadata.name, story.agent.metadata.namespace
        for kind in SWEPT:
            there = await self._client.list(kind, namespace, labels={labels.AGENT: name})
            for obj in there:
                meta = obj["metadata"]
                if (kind.kind, meta["name"]) in wanted or not is_controlled_by(obj, story.obj):
                    continue
                if not meta.get("deletionTimestamp"):
                    await self._delete(kind, meta, story.obj)

    async def _delete(self, kind: Kind, meta: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
        try:
            await self._client.delete(kind, meta["name"], meta["namespace"], uid=meta["uid"])
        except NotFound:
            return
        message = f"Deleted {kind.kind} {meta['name']}, which the spec no longer wants"
        child = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}  # one Event for each
        self._recorder.event(owner, "Normal", "ChildDeleted", message, related=child)
        log.info("agent.child-deleted", kind=kind.kind, name=meta["name"], namespace=meta["namespace"])

    # the status

    async def _tell_unreadable(self, found: dict[str, Any], error: DecodeError) -> None:
        """The object does not have the shape of an Agent, whatever let it pass: its children are left as they are."""
        draft, message = StatusDraft(AGENT, found, self._clock.now()), str(error)
        draft.condition(ConditionType.CONFIG_VALID, False, Reason.INVALID_SPEC, message)
        if draft.condition(ConditionType.READY, False, Reason.INVALID_SPEC, message):
            self._recorder.event(found, "Warning", Reason.INVALID_SPEC, message)
        draft.set(
            phase=AgentPhase.FAILED.value, message=message, observedGeneration=found["metadata"].get("generation")
        )
        await draft.save(self._client)

    async def _tell(self, story: _Story) -> None:
        """Phase, conditions and the plain facts, all computed from what was just seen."""
        agent, draft = story.agent, story.draft
        workload = await self._workload(agent)
        self._tell_dependencies(story)
        self._tell_children(story)
        await self._tell_storage(story)
        self._tell_security(story)
        report_fields(draft, agent, *_effectless(agent))
        phase, reason, message = self._verdict(story, workload)
        ready = phase in (AgentPhase.RUNNING, AgentPhase.READY)
        if draft.condition(ConditionType.READY, ready, reason, message):
            bad = phase is AgentPhase.FAILED or (story.blocked and not ready)
            self._recorder.event(story.obj, "Warning" if bad else "Normal", reason, message)
        draft.set(**{key: workload.counts.get(key) if workload else None for key in COUNTS})
        draft.set(
            phase=phase.value,
            message=None if ready and not story.blocked and not story.problems else message,
            observedGeneration=agent.metadata.generation,
            activeModel=agent.spec.model,
            linkedResources=dict(sorted(_links(agent).items())),
            serviceURL=names.service_url(agent.metadata.name, agent.metadata.namespace)
            if agent.spec.mode == "daemon"
            else None,
            storagePVC=names.storage(agent.metadata.name)
            if agent.spec.mode == "daemon" and agent.spec.storage is not None
            else None,
        )
        if story.rendering is not None and not story.problems:
            draft.set(
                configHash=story.rendering.config_hash,
                runtimeImage=None if agent.spec.image else story.rendering.runtime_image,
                observedUpgrade=story.rendering.upgrade,
            )

    async def _workload(self, agent: Agent) -> Workload | None:
        """The Deployment and its pods, read; None for a task."""
        if agent.spec.mode != "daemon":
            return None
        name, namespace = agent.metadata.name, agent.metadata.namespace
        deployment = await self._client.try_get(DEPLOYMENT, name, namespace)
        pods = await self._client.list(POD, namespace, labels=selector(name))
        return observe(deployment, pods)

    def _tell_dependencies(self, story: _Story) -> None:
        review = story.review
        if review is None:
            return
        draft = story.draft
        if review.problems:
            message = "; ".join(str(problem) for problem in review.problems)
            if draft.condition(ConditionType.CONFIG_VALID, False, Reason.INVALID_SPEC, message):
                self._recorder.event(story.obj, "Warning", Reason.INVALID_SPEC, message)
        else:
            draft.condition(ConditionType.CONFIG_VALID, True, Reason.VALID, "the spec is consistent")
        for type_, good in (
            (ConditionType.PROVIDERS_READY, Reason.CONFIGURED),
            (ConditionType.DEPENDENCIES_READY, Reason.ALL_READY),
        ):
            found = [*review.blockers, *review.shortfalls]
            blockers = [blocker for blocker in found if blocker.condition is type_]
            if not blockers:
                draft.condition(type_, True, good, "everything the spec names is there")
                continue
            message = "; ".join(blocker.message for blocker in blockers)
            if draft.condition(type_, False, blockers[0].reason, message):
                self._recorder.event(story.obj, "Warning", blockers[0].reason, message)

    def _tell_children(self, story: _Story) -> None:
        if not story.problems:
            story.draft.condition(ConditionType.CHILDREN_READY, True, Reason.APPLIED, "every child is as it should be")
            return
        reason, message = story.problems[0][0], "; ".join(text for _, text in story.problems)
        if story.draft.condition(ConditionType.CHILDREN_READY, False, reason, message):
            self._recorder.event(story.obj, "Warning", reason, message)

    async def _tell_storage(self, story: _Story) -> None:
        """A claim keeps the size it was made with, and is kept without `storage`; say so when the spec differs."""
        agent, draft = story.agent, story.draft
        claim = await self._client.try_get(PVC, names.storage(agent.metadata.name), agent.metadata.namespace)
        if agent.spec.mode != "daemon" or agent.spec.storage is None:
            self._tell_kept_claim(story, claim)
            return
        if claim is None:
            draft.drop_condition(ConditionType.STORAGE_READY)
            return
        has = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "")
        if claim["metadata"].get("deletionTimestamp"):
            message = (
                f"PersistentVolumeClaim {claim['metadata']['name']} is being deleted; it is made anew when it is gone"
            )
            draft.condition(ConditionType.STORAGE_READY, False, Reason.TERMINATING, message)
        elif quantities_equal(has, agent.spec.storage.size):
            draft.condition(ConditionType.STORAGE_READY, True, Reason.CLAIMED, f"claimed {has}")
        else:
            message = (
                f"spec.storage.size is {agent.spec.storage.size}, the claim keeps the {has} it was made with; "
                "delete the Agent and create it anew to change the size"
            )
            draft.condition(ConditionType.STORAGE_READY, False, Reason.SIZE_FIXED, message)

    def _tell_kept_claim(self, story: _Story, claim: Mapping[str, Any] | None) -> None:
        """The claim of an Agent that once had `storage`."""
        if claim is None or claim["metadata"].get("deletionTimestamp") or not is_controlled_by(claim, story.obj):
            story.draft.drop_condition(ConditionType.STORAGE_READY)
            return
        name, namespace = claim["metadata"]["name"], claim["metadata"]["namespace"]
        message = (
            f"the spec has no storage, so PersistentVolumeClaim {namespace}/{name} is not mounted; it is kept with "
            f"what it holds: put spec.storage back to use it, or delete it: kubectl delete pvc {name} -n {namespace}"
        )
        if story.draft.condition(ConditionType.STORAGE_READY, False, Reason.CLAIM_KEPT, message):
            self._recorder.event(story.obj, "Normal", Reason.CLAIM_KEPT, message)

    def _tell_security(self, story: _Story) -> None:
        violations = compute_violations(story.agent.spec.security)
        if violations:
            message = "; ".join(violations)
            if story.draft.condition(ConditionType.SECURITY_POLICY_VIOLATIONS, True, Reason.OVERRIDES_CLAMPED, message):
                self._recorder.event(story.obj, "Warning", Reason.OVERRIDES_CLAMPED, message)
        else:
            message = "every wish is within the floor"
            story.draft.condition(ConditionType.SECURITY_POLICY_VIOLATIONS, False, Reason.NO_VIOLATIONS, message)

    def _verdict(self, story: _Story, workload: Workload | None) -> tuple[AgentPhase, str, str]:
        """Phase, and reason and message of Ready."""
        review, held = story.review, ""
        trouble = "; ".join(text for _, text in story.problems)
        if story.blocked:
            held = review.summary if review is not None else trouble
        if workload is not None and workload.running:
            also = f"; held back, with the last good configuration serving: {held}" if held else ""
            but = f"; but {trouble}" if trouble and not held else ""
            return AgentPhase.RUNNING, Reason.RUNNING, workload.message + also + but
        if story.problems:
            return AgentPhase.FAILED, story.problems[0][0], trouble
        if review is not None and review.problems:
            return AgentPhase.FAILED, Reason.INVALID_SPEC, held
        if review is not None and review.blockers:
            return AgentPhase.PENDING, review.blockers[0].reason, held
        if workload is None:
            return AgentPhase.READY, Reason.READY, "runs can be started"
        phase = AgentPhase.FAILED if workload.failing else AgentPhase.PENDING
        return phase, workload.reason, workload.message


def _effectless(agent: Agent) -> list[str]:
    """What this agent's mode takes the effect from, and the platform's own variables."""
    found = [f"{path} (the platform's own variable)" for path in reserved_in(agent.spec)]
    if agent.spec.mode == "daemon" and agent.spec.concurrency.max_runs > 1:
        found.append("spec.concurrency.maxRuns (a daemon answers one prompt at a time)")
    return found


def _links(agent: Agent) -> dict[str, str]:
    """Names of the children by kind, for people and the console."""
    return dict(plan.child_names(agent))
