"""Questions that are answered and not stored: who am I, may I, is this token good."""

from __future__ import annotations

from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.auth import AUDIENCE, Attributes, Authenticator, Authorizer
from agentops.local.apiserver.http import User

Object = dict[str, Any]


def user_info(user: User) -> Object:
    info: Object = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = list(user.groups)
    if user.extra:
        info["extra"] = {k: list(v) for k, v in user.extra.items()}
    return info


class Reviews:
    """Fills in `status`. The object comes decoded and pruned."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._authenticator = authenticator
        self.authorizer = authorizer

    def answer(self, kind: str, obj: Object, user: User, namespace: str) -> Object:
        """The review with its status. `kind` is one of the review kinds."""
        spec = obj.get("spec") or {}
        found = _problems(kind, spec, namespace)
        if found:
            raise errors.invalid("authorization.k8s.io", kind, "", found)
        match kind:
            case "SelfSubjectReview":
                obj["status"] = {"userInfo": user_info(user)}
            case "SelfSubjectAccessReview":
                obj["status"] = self._access(user, spec)
            case "SubjectAccessReview" | "LocalSubjectAccessReview":
                subject = User(spec.get("user") or "", tuple(spec.get("groups") or ()))
                obj["status"] = self._access(subject, spec)
            case "SelfSubjectRulesReview":
                resources, paths = self.authorizer.rules(user, spec.get("namespace") or "")
                obj["status"] = {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
            case "TokenReview":
                obj["status"] = self._token(spec)
        obj.setdefault("metadata", {}).setdefault("creationTimestamp", None)
        return obj

    def _access(self, user: User, spec: Object) -> Object:
        asked = spec.get("resourceAttributes")
        if asked:
            attributes = Attributes(
                asked.get("verb", ""), asked.get("group", ""), asked.get("version", ""), asked.get("resource", ""),
                asked.get("subresource", ""), asked.get("namespace", ""), asked.get("name", ""),
            )  # fmt: skip
        else:
            other = spec.get("nonResourceAttributes") or {}
            attributes = Attributes(other.get("verb", ""), path=other.get("path", ""), is_resource=False)
        why = self.authorizer.refuse(user, attributes)
        if why is None:
            return {"allowed": True}
        return {"allowed": False, **({"reason": why} if why else {})}

    def _token(self, spec: Object) -> Object:
        wanted = tuple(spec.get("audiences") or ()) or (AUDIENCE,)
        user = self._authenticator.user_of(spec.get("token") or "", wanted)
        if user is None:
            return {"user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": user_info(user), "audiences": list(wanted)}


def _problems(kind: str, spec: Object, namespace: str) -> list[errors.FieldError]:
    """What a real server refuses about an access review."""
    if not kind.endswith("AccessReview"):
        return []
    found: list[errors.FieldError] = []
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if kind == "LocalSubjectAccessReview":
        if other:
            found.append(
                errors.invalid_value("spec.nonResourceAttributes", other, "disallowed on this kind of request")
            )
        if resource and resource.get("namespace") != namespace:
            detail = "must match metadata.namespace"
            found.append(errors.invalid_value("spec.resourceAttributes.namespace", resource.get("namespace"), detail))
    if resource and other:
        detail = "cannot be specified in combination with resourceAttributes"
        found.append(errors.invalid_value("spec.nonResourceAttributes", other, detail))
    if not resource and not other:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        found.append(errors.invalid_value("spec.resourceAttributes", None, detail))
    if not kind.startswith("Self") and not spec.get("user") and not spec.get("groups"):
        found.append(errors.invalid_value("spec.user", "", "at least one of user or group must be specified"))
    return found
