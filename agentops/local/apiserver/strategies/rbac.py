"""Roles and their bindings."""

from __future__ import annotations

from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import Context, Strategy, path_segment_name
from agentops.values.selector import LabelSelector, SelectorError

Object = dict[str, Any]

_GROUP = "rbac.authorization.k8s.io"


class RbacStrategy(Strategy):
    """Roles and bindings: any path segment is a name; a binding's roleRef never changes."""

    unconditional_update = True
    check_name = staticmethod(path_segment_name)

    def default(self, obj: Object) -> None:
        for subject in obj.get("subjects") or ():
            if not subject.get("apiGroup"):
                if subject.get("kind") in ("User", "Group"):
                    subject["apiGroup"] = _GROUP
                else:
                    subject.pop("apiGroup", None)
        if isinstance(obj.get("roleRef"), dict):
            obj["roleRef"].setdefault("apiGroup", _GROUP)
        if obj.get("kind") in ("Role", "ClusterRole"):
            obj.setdefault("rules", None)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out: list[FieldError] = []
        for index, rule in enumerate(obj.get("rules") or ()):
            if not rule.get("verbs"):
                out.append(errors.required(f"rules[{index}].verbs", "verbs must contain at least one value"))
            if rule.get("nonResourceURLs"):
                out += self._urls(obj, rule, f"rules[{index}].nonResourceURLs")
            else:
                if "apiGroups" not in rule or not rule["apiGroups"]:
                    detail = "resource rules must supply at least one api group"
                    out.append(errors.required(f"rules[{index}].apiGroups", detail))
                if not rule.get("resources"):
                    detail = "resource rules must supply at least one resource"
                    out.append(errors.required(f"rules[{index}].resources", detail))
        for index, subject in enumerate(obj.get("subjects") or ()):
            out += self._subject(f"subjects[{index}]", subject)
        ref = obj.get("roleRef")
        if isinstance(ref, dict):
            allowed = ("ClusterRole",) if obj.get("kind") == "ClusterRoleBinding" else ("Role", "ClusterRole")
            if ref.get("kind") not in allowed:
                out.append(errors.not_supported("roleRef.kind", ref.get("kind"), allowed))
            if ref.get("apiGroup") != _GROUP:
                out.append(errors.not_supported("roleRef.apiGroup", ref.get("apiGroup"), [_GROUP]))
            if not ref.get("name"):
                out.append(errors.required("roleRef.name"))
        for index, selector in enumerate((obj.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()):
            try:
                LabelSelector.from_dict(selector)
            except (SelectorError, KeyError) as error:
                path = f"aggregationRule.clusterRoleSelectors[{index}]"
                out.append(errors.invalid_value(path, selector, str(error)))
        return out

    @staticmethod
    def _urls(obj: Object, rule: Object, path: str) -> list[FieldError]:
        out: list[FieldError] = []
        if obj.get("kind") == "Role":
            detail = "namespaced rules cannot apply to non-resource URLs"
            out.append(errors.invalid_value(path, rule["nonResourceURLs"], detail))
        if any(rule.get(field) for field in ("apiGroups", "resources", "resourceNames")):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            out.append(errors.invalid_value(path, rule["nonResourceURLs"], detail))
        return out

    @staticmethod
    def _subject(path: str, subject: Object) -> list[FieldError]:
        out: list[FieldError] = []
        kind = subject.get("kind")
        if not subject.get("name"):
            out.append(errors.required(f"{path}.name"))
        if kind not in ("ServiceAccount", "User", "Group"):
            out.append(errors.not_supported(f"{path}.kind", kind, ["ServiceAccount", "User", "Group"]))
        elif kind != "ServiceAccount" and subject.get("apiGroup") != _GROUP:
            out.append(errors.not_supported(f"{path}.apiGroup", subject.get("apiGroup"), [_GROUP]))
        elif kind == "ServiceAccount" and not subject.get("namespace"):
            out.append(errors.required(f"{path}.namespace"))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        if "roleRef" in old and new.get("roleRef") != old["roleRef"]:
            return [errors.invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")]
        return []
