"""Mutating and validating admission webhooks.

    mutating    one after the other, by configuration name, each sees what the one before left
    validating  all at once, any refusal refuses

Rules, matchPolicy, namespace and object selectors, matchConditions, failurePolicy, timeouts, dry run, warnings and
reinvocation are kube-apiserver's. Not done: writes of the scale subresource.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import anyio
import orjson
from attrs import define, evolve, field, frozen

from agentops.kube.kinds import MUTATING_WEBHOOK_CONFIGURATION, NAMESPACE, VALIDATING_WEBHOOK_CONFIGURATION
from agentops.kube.patches import PatchError, create_json_patch, json_patch
from agentops.local.apiserver import errors
from agentops.local.apiserver.http import User
from agentops.local.apiserver.match_conditions import Refuse, failing_condition
from agentops.local.apiserver.resources import Registry, Resource
from agentops.local.apiserver.reviews import user_info
from agentops.local.apiserver.schema.cel import CelFailure
from agentops.local.apiserver.store import Store
from agentops.local.apiserver.undecided import Undecided
from agentops.local.apiserver.webhook_caller import Caller, CallFailed, HttpCaller, target_of
from agentops.local.apiserver.writes import WriteOptions
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

log = get_logger("apiserver.webhooks")

Object = dict[str, Any]

_EXEMPT = (MUTATING_WEBHOOK_CONFIGURATION.plural, VALIDATING_WEBHOOK_CONFIGURATION.plural)


@frozen(slots=True)
class Hook:
    """One webhook of a configuration; `resource` is the version of the kind that it wants to see."""

    spec: Mapping[str, Any]
    resource: Resource | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def timeout_s(self) -> float:
        return float(self.spec.get("timeoutSeconds") or 10)

    @property
    def ignores_failures(self) -> bool:
        return self.spec.get("failurePolicy") == "Ignore"

    @property
    def reinvoked(self) -> bool:
        return self.spec.get("reinvocationPolicy") == "IfNeeded"


@frozen(slots=True)
class Attempt:
    """One write that is about to happen: what webhooks are asked about."""

    resource: Resource
    operation: str
    options: WriteOptions
    new: Object | None
    old: Object | None

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.new or self.old or {}).get("metadata") or {}
        return found

    @property
    def namespace(self) -> str:
        return str(self.metadata.get("namespace") or "")

    @property
    def key(self) -> tuple[str, ...]:
        """What a decision holds for: this write on this state of the object."""
        generated = self.operation == "CREATE" and self.metadata.get("generateName")
        name = generated or self.metadata.get("name") or ""
        before = ((self.old or {}).get("metadata") or {}).get("resourceVersion") or ""
        return self.operation, self.options.subresource, self.resource.storage, self.namespace, str(name), str(before)


class Webhooks:
    """The configurations in the store, and the way to the servers they name.

    `refuse` is the authorizer that conditions may ask.
    """

    def __init__(self, store: Store, registry: Registry, refuse: Refuse, caller: Caller | None = None) -> None:
        self._store = store
        self._registry = registry
        self._refuse = refuse
        self.caller: Caller = caller or HttpCaller()
        self._parsed: dict[str, tuple[tuple[int, ...], list[Hook]]] = {}

    @property
    def any(self) -> bool:
        """Whether there is any configuration at all."""
        kinds = (MUTATING_WEBHOOK_CONFIGURATION, VALIDATING_WEBHOOK_CONFIGURATION)
        return any_of(self._store.count(kind.resource) for kind in kinds)

    def admission(self, user: User) -> RequestAdmission:
        """For one request."""
        return RequestAdmission(self, user)

    def matching(self, kind: Kind, attempt: Attempt) -> list[Hook]:
        """The hooks of one sort that want to know of `attempt`, in order."""
        resource = attempt.resource
        if resource.plural in _EXEMPT or attempt.options.subresource == "scale":
            return []
        found = []
        for hook in self._hooks(kind):
            wanted = self._wanted_version(hook, attempt)
            if wanted is not None and self._selected(hook, attempt):
                found.append(evolve(hook, resource=wanted))
        return found

    def _wanted_version(self, hook: Hook, attempt: Attempt) -> Resource | None:
        """The version that the rules name: the one that is written, else, with Equivalent, another of the kind."""
        resource = attempt.resource
        versions = [resource]
        if hook.spec.get("matchPolicy") != "Exact":
            same = (resource.group, resource.plural)
            versions += [r for r in self._registry if (r.group, r.plural) == same and r.kind != resource.kind]
        for version in versions:
            if any_of(_rule_matches(rule, version.kind, attempt) for rule in hook.spec.get("rules") or ()):
                return version
        return None

    async def in_version(self, resource: Resource | None, obj: Object | None) -> Any:
        """`obj` as `resource` has it. Raises ApiFailure when its conversion webhook fails."""
        if obj is None or resource is None or obj.get("apiVersion") == resource.kind.api_version:
            return obj
        while resource.converter is not None:
            try:
                return resource.converter.convert(obj, resource.kind.api_version)
            except Undecided as undecided:
                await undecided.decide()
        return {**obj, "apiVersion": resource.kind.api_version}

    def _hooks(self, kind: Kind) -> list[Hook]:
        entries = list(self._store.list(kind.resource))
        state = tuple(entry.revision for entry in entries)
        cached = self._parsed.get(kind.resource)
        if cached is None or cached[0] != state:
            ordered = sorted(entries, key=lambda entry: entry.name)
            hooks = [Hook(spec) for entry in ordered for spec in entry.obj().get("webhooks") or ()]
            cached = self._parsed[kind.resource] = (state, hooks)
        return cached[1]

    def _selected(self, hook: Hook, attempt: Attempt) -> bool:
        namespaces = LabelSelector.from_dict(hook.spec.get("namespaceSelector") or {})
        objects = LabelSelector.from_dict(hook.spec.get("objectSelector") or {})
        if not namespaces.empty:
            labels = self._namespace_labels(attempt)
            if labels is not None and not namespaces.matches(labels):
                return False
        if objects.empty:
            return True
        states = [state for state in (attempt.new, attempt.old) if state is not None]
        return any_of(objects.matches((state.get("metadata") or {}).get("labels") or {}) for state in states)

    def _namespace_labels(self, attempt: Attempt) -> Mapping[str, str] | None:
        """None for what is in no namespace: it is always selected. A Namespace is selected by its own labels."""
        if attempt.resource.storage == NAMESPACE.resource:
            return attempt.metadata.get("labels") or {}
        if not attempt.namespace:
            return None
        entry = self._store.get(NAMESPACE.resource, "", attempt.namespace)
        return entry.labels if entry is not None else {}

    async def conditions_met(self, hook: Hook, attempt: Attempt, new: Object | None, user: User) -> bool:
        """Whether the hook's matchConditions let it be called. Raises ApiFailure 403 when they fail and it may not."""
        conditions = hook.spec.get("matchConditions") or ()
        if not conditions:
            return True
        try:
            review = await self._review(hook, attempt, new, "", user)
            return failing_condition(conditions, review, user, self._refuse) is None
        except CelFailure as failure:
            log.warning("webhook.conditions_failed", webhook=hook.name, error=str(failure))
            if hook.ignores_failures:
                return False
            resource, name = attempt.resource, str(attempt.metadata.get("name") or "")
            raise errors.forbidden_object(resource.group, resource.plural, name, str(failure)) from failure

    async def _review(self, hook: Hook, attempt: Attempt, new: Object | None, uid: str, user: User) -> Object:
        """The AdmissionRequest, in the version that the hook wants."""
        wanted = hook.resource or attempt.resource
        old = await self.in_version(hook.resource, attempt.old)
        return _request(attempt, wanted, await self.in_version(hook.resource, new), old, uid, user)

    async def ask(self, hook: Hook, attempt: Attempt, new: Object | None, uid: str, user: User) -> Mapping[str, Any]:
        """The webhook's `response`. Raises CallFailed, or ApiFailure when it cannot be asked in a dry run."""
        if attempt.options.dry_run and hook.spec.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise errors.bad_request(f'admission webhook "{hook.name}" does not support dry run')
        versions = hook.spec.get("admissionReviewVersions") or ["v1"]
        version = next((v for v in versions if v in ("v1", "v1beta1")), None)
        if version is None:
            raise CallFailed(f"none of its admissionReviewVersions {list(versions)} is known")
        review = {
            "apiVersion": f"admission.k8s.io/{version}",
            "kind": "AdmissionReview",
            "request": await self._review(hook, attempt, new, uid, user),
        }
        target = target_of(hook.spec.get("clientConfig") or {}, self._store)
        with anyio.move_on_after(hook.timeout_s + 1) as bound:
            answer = await self.caller(target, review, hook.timeout_s)
        if bound.cancelled_caught:
            raise CallFailed("context deadline exceeded")
        response = answer.get("response")
        if answer.get("kind") != "AdmissionReview" or not isinstance(response, dict):
            raise CallFailed("the answer is no AdmissionReview with a response")
        if response.get("uid") != uid:
            raise CallFailed(f"expected response.uid={uid!r}, got {response.get('uid')!r}")
        return response


@define(slots=True, eq=False)
class RequestAdmission:
    """What webhooks have decided for one request; implements `writes.Admission`."""

    _webhooks: Webhooks
    _user: User
    warnings: list[str] = field(factory=list)
    _patches: dict[tuple[str, ...], list[Object]] = field(factory=dict)
    _allowed: set[tuple[str, ...]] = field(factory=set)
    _identity: Object = field(factory=dict)

    def mutate(self, resource: Resource, options: WriteOptions, new: Object, old: Object | None) -> Object:
        """`new` after the mutating webhooks. Raises Undecided."""
        if old is None:  # the same object in every round, so that webhooks see the uid that is stored
            for name in ("uid", "creationTimestamp"):
                new["metadata"][name] = self._identity.setdefault(name, new["metadata"].get(name))
        attempt = Attempt(resource, "CREATE" if old is None else "UPDATE", options, new, old)
        hooks = self._webhooks.matching(MUTATING_WEBHOOK_CONFIGURATION, attempt)
        if not hooks:
            return new
        operations = self._patches.get(attempt.key)
        if operations is None:
            raise _Mutation(self, attempt, hooks)
        result: Object = json_patch(new, operations) if operations else new
        return result

    def validate(self, resource: Resource, options: WriteOptions, new: Object | None, old: Object | None) -> None:
        """Raises Undecided until all validating webhooks have agreed. Without `new` it is a deletion."""
        operation = "DELETE" if new is None else "CREATE" if old is None else "UPDATE"
        attempt = Attempt(resource, operation, options, new, old)
        if attempt.key in self._allowed:
            return
        mutating = self._webhooks.matching(MUTATING_WEBHOOK_CONFIGURATION, attempt) if new is None else []
        validating = self._webhooks.matching(VALIDATING_WEBHOOK_CONFIGURATION, attempt)
        if mutating or validating:
            raise _Validation(self, attempt, [*mutating, *validating])

    async def call(self, hook: Hook, attempt: Attempt, new: Object | None) -> Mapping[str, Any] | None:
        """The response of one that allowed it; None when it failed and may. Raises ApiFailure."""
        try:
            response = await self._webhooks.ask(hook, attempt, new, str(uuid4()), self._user)
        except CallFailed as error:
            log.warning("webhook.failed", webhook=hook.name, ignored=hook.ignores_failures, error=str(error))
            if hook.ignores_failures:
                return None
            raise errors.internal(f'failed calling webhook "{hook.name}": failed to call webhook: {error}') from error
        self.warnings += [str(text) for text in response.get("warnings") or ()]
        if not response.get("allowed"):
            raise _denied(hook.name, response.get("status") or {})
        return response

    async def run_mutating(self, attempt: Attempt, hooks: Sequence[Hook]) -> None:
        start = attempt.new or {}
        current = start
        left_by: dict[str, bytes] = {}
        for hook in hooks:
            current = await self._apply(hook, attempt, current)
            left_by[hook.name] = _canonical(current)
        for hook in hooks:  # who asked for it sees the object again when others changed it afterwards
            if hook.reinvoked and left_by[hook.name] != _canonical(current):
                current = await self._apply(hook, attempt, current)
        self._patches[attempt.key] = create_json_patch(start, current)

    async def _apply(self, hook: Hook, attempt: Attempt, current: Object) -> Object:
        if not await self._webhooks.conditions_met(hook, attempt, current, self._user):
            return current
        response = await self.call(hook, attempt, current)
        if response is None or not response.get("patch"):
            return current
        try:
            if response.get("patchType") != "JSONPatch":
                raise PatchError(f"unsupported patch type {response.get('patchType')!r}")
            seen = await self._webhooks.in_version(hook.resource, current)
            patched = json_patch(seen, orjson.loads(base64.b64decode(response["patch"])))
        except (PatchError, binascii.Error, ValueError) as error:
            if hook.ignores_failures:
                log.warning("webhook.bad_patch", webhook=hook.name, error=str(error))
                return current
            raise errors.internal(f'failed calling webhook "{hook.name}": {error}') from error
        changed: Object = await self._webhooks.in_version(attempt.resource, patched)
        return changed

    async def run_validating(self, attempt: Attempt, hooks: Sequence[Hook]) -> None:
        failures: list[errors.ApiFailure] = []
        hooks = [h for h in hooks if await self._webhooks.conditions_met(h, attempt, attempt.new, self._user)]

        async def one(hook: Hook) -> None:
            try:
                await self.call(hook, attempt, attempt.new)
            except errors.ApiFailure as failure:
                failures.append(failure)

        async with anyio.create_task_group() as tasks:
            for hook in hooks:
                tasks.start_soon(one, hook)
        if failures:
            raise failures[0]
        self._allowed.add(attempt.key)


class _Mutation(Undecided):
    def __init__(self, admission: RequestAdmission, attempt: Attempt, hooks: Sequence[Hook]) -> None:
        super().__init__("mutating webhooks")
        self._parts = (admission, attempt, hooks)

    async def decide(self) -> None:
        admission, attempt, hooks = self._parts
        await admission.run_mutating(attempt, hooks)


class _Validation(_Mutation):
    async def decide(self) -> None:
        admission, attempt, hooks = self._parts
        await admission.run_validating(attempt, hooks)


def any_of(found: Any) -> bool:
    return next((True for item in found if item), False)


def _rule_matches(rule: Mapping[str, Any], kind: Kind, attempt: Attempt) -> bool:
    scope = rule.get("scope") or "*"
    return (
        _has(rule.get("operations"), attempt.operation)
        and _has(rule.get("apiGroups"), kind.group)
        and _has(rule.get("apiVersions"), kind.version)
        and (scope == "*" or (scope == "Namespaced") == bool(attempt.namespace))
        and any_of(
            _resource_matches(str(r), kind.plural, attempt.options.subresource) for r in rule.get("resources") or ()
        )
    )


def _has(allowed: Any, value: str) -> bool:
    return "*" in (allowed or ()) or value in (allowed or ())


def _resource_matches(pattern: str, plural: str, subresource: str) -> bool:
    """`pods` is the object alone, `pods/status` a subresource, `pods/*` all of them, `*/*` everything."""
    wanted, _, sub = pattern.partition("/")
    return wanted in ("*", plural) and (sub == "*" or sub == subresource)


def _request(
    attempt: Attempt, resource: Resource, new: Object | None, old: Object | None, uid: str, user: User
) -> Object:
    options = attempt.options
    words = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}
    request: Object = {
        "uid": uid,
        "kind": _gvk(resource.kind),
        "resource": _gvr(resource.kind),
        "requestKind": _gvk(attempt.resource.kind),
        "requestResource": _gvr(attempt.resource.kind),
        "name": attempt.metadata.get("name") or "",
        "operation": attempt.operation,
        "userInfo": user_info(user),
        "object": new,
        "oldObject": old,
        "dryRun": options.dry_run,
        "options": {
            "apiVersion": "meta.k8s.io/v1",
            "kind": words[attempt.operation],
            **({"fieldManager": options.manager} if attempt.operation != "DELETE" else {}),
            **({"dryRun": ["All"]} if options.dry_run else {}),
        },
    }
    if attempt.namespace:
        request["namespace"] = attempt.namespace
    if options.subresource:
        request["subResource"] = request["requestSubResource"] = options.subresource
    return request


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _gvr(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.version, "resource": kind.plural}


def _denied(name: str, status: Mapping[str, Any]) -> errors.ApiFailure:
    text = f'admission webhook "{name}" denied the request'
    why = status.get("message") or status.get("reason")
    code = int(status.get("code") or 0)
    details = status.get("details") or {}
    return errors.ApiFailure(
        max(code, 400),
        str(status.get("reason") or ""),
        f"{text}: {why}" if why else f"{text} without explanation",
        details,
    )


def _canonical(obj: Object) -> bytes:
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
