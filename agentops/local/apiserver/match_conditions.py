"""`matchConditions` of admission webhooks: CEL over object, oldObject, request and authorizer.

A webhook is called when all its conditions are true. One false condition is enough to leave it out, also when
another ends in an error. Source: Kubernetes' `plugin/webhook/matchconditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

from agentops.local.apiserver.auth import Attributes
from agentops.local.apiserver.http import User
from agentops.local.apiserver.reviews import user_info
from agentops.local.apiserver.schema.cel import (
    CelError,
    CelFailure,
    cel_module,
    check_fields,
    compile_in,
    new_environment,
    result_type,
    run,
)
from agentops.local.apiserver.schema.structural import Schema

Object = dict[str, Any]
Refuse = Callable[[User, Attributes], str | None]

_TEXT = {"type": "string"}
_LEFT_OUT = ("object", "oldObject", "uid")
"""Of the AdmissionRequest: what conditions see by other names, or not at all."""


def _record(*names: str, **others: Object) -> Object:
    return {"type": "object", "properties": {**dict.fromkeys(names, _TEXT), **others}}


_KIND = _record("group", "version", "kind")
_RESOURCE = _record("group", "version", "resource")
_REQUEST = Schema(
    _record(
        "subResource", "requestSubResource", "name", "namespace", "operation",
        kind=_KIND, resource=_RESOURCE, requestKind=_KIND, requestResource=_RESOURCE,
        userInfo=_record("username", "uid", groups={"type": "array"}, extra={"type": "object"}),
        dryRun={"type": "boolean"}, options={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    )
)  # fmt: skip
_asked: ContextVar[tuple[User, Refuse]] = ContextVar("authorizer of the conditions")


@lru_cache(maxsize=1024)
def compile_condition(expression: str) -> Any:
    """The program of one condition. Raises CelError."""
    program = compile_in(_environment(), expression)
    if result_type(program) != "BOOL":
        raise CelError("must evaluate to bool")
    check_fields(expression, "request", _REQUEST)
    return program


def failing_condition(
    conditions: Sequence[Mapping[str, Any]], review: Mapping[str, Any], user: User, refuse: Refuse
) -> str | None:
    """The name of a condition that is false; None when all are true. `review` is the AdmissionRequest.

    Raises CelFailure when none is false and one ends in an error.
    """
    request = {k: v for k, v in review.items() if k not in _LEFT_OUT and v not in ("", None)}
    where = {
        "group": review["resource"]["group"],
        "version": review["resource"]["version"],
        "resource": review["resource"]["resource"],
        **{k: v for k, v in (("subresource", review.get("subResource")), ("namespace", review.get("namespace")),
                             ("name", review.get("name"))) if v},
    }  # fmt: skip
    authorizer = {"user": user_info(user), "requestResource": {"user": user_info(user), **where}}
    data = {
        "object": review.get("object"),
        "oldObject": review.get("oldObject"),
        "request": request,
        "authorizer": authorizer,
    }
    failures = []
    token = _asked.set((user, refuse))
    try:
        for condition in conditions:
            expression = condition["expression"]
            try:
                if not run(compile_condition(expression), data):
                    return str(condition["name"])
            except (CelError, CelFailure) as error:
                failures.append(f"expression '{expression}' resulted in error: {error}")
    finally:
        _asked.reset(token)
    if failures:
        raise CelFailure(failures[0] if len(failures) == 1 else f"[{', '.join(failures)}]")
    return None


@cache
def _environment() -> Any:
    types = cel_module().Type
    variables = {"object": types.DYN, "oldObject": types.DYN, "request": types.DYN, "authorizer": types.MAP}
    return new_environment(variables, _authorizer_functions())


def _authorizer_functions() -> list[Any]:
    """`authorizer.group(g).resource(r)….check(verb).allowed()`: each step is a map that says what was named so far."""
    cel = cel_module()
    types = cel.Type

    def member(name: str, result: Any, parameters: list[Any], does: Callable[..., Any]) -> Any:
        key = f"authorizer_{name}"
        whole = [types.MAP, *parameters]
        return cel.FunctionDecl(name, [cel.Overload(key, return_type=result, parameters=whole, is_member=True,
                                                    impl=does)])  # fmt: skip

    def step(name: str) -> Any:
        return member(name, types.MAP, [types.STRING], lambda about, value: {**about, name: value})

    return [
        *map(step, ("group", "resource", "subresource", "namespace", "name", "path", "fieldSelector", "labelSelector")),
        member("serviceAccount", types.MAP, [types.STRING, types.STRING], _as_service_account),
        member("check", types.MAP, [types.STRING], _check),
        member("allowed", types.BOOL, [], lambda decision: bool(decision["allowed"])),
        member("reason", types.STRING, [], lambda decision: str(decision["reason"])),
        member("errored", types.BOOL, [], lambda decision: False),
        member("error", types.STRING, [], lambda decision: ""),
    ]


def _as_service_account(about: Mapping[str, Any], namespace: str, name: str) -> Object:
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    return {**about, "user": {"username": f"system:serviceaccount:{namespace}:{name}", "groups": groups}}


def _check(about: Mapping[str, Any], verb: str) -> Object:
    user, refuse = _asked.get()
    who = about["user"]
    if who["username"] != user.name:
        user = User(who["username"], tuple(who["groups"]))
    names = ("group", "version", "resource", "subresource", "namespace", "name", "path")
    named: dict[str, Any] = {name: about[name] for name in names if name in about}
    refused = refuse(user, Attributes(verb, is_resource="resource" in about, **named))
    return {"allowed": refused is None, "reason": refused or ""}
