"""CustomResourceDefinitions as objects: defaults, names, versions, schemas."""

from __future__ import annotations

import re
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.schema.crd_columns import column_errors, selectable_errors
from agentops.local.apiserver.schema.crd_rules import schema_errors
from agentops.local.apiserver.schema.structural import Schema
from agentops.local.apiserver.strategies.base import Context, Strategy, immutable
from agentops.values.names import is_dns1035_label

Object = dict[str, Any]

APPROVAL = "api-approved.kubernetes.io"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


class CrdStrategy(Strategy):
    has_generation = True
    has_status = True
    unconditional_update = False
    delete_returns_object = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        names = spec.setdefault("names", {})
        if names.get("kind"):
            if not names.get("singular"):
                names["singular"] = names["kind"].lower()
            if not names.get("listKind"):
                names["listKind"] = names["kind"] + "List"
        spec.setdefault("conversion", {"strategy": "None"})

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        stored = [v.get("name") for v in obj["spec"].get("versions") or () if v.get("storage")]
        obj["status"] = {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        stored = list((new.get("status") or {}).get("storedVersions") or ())
        for version in new["spec"].get("versions") or ():
            if version.get("storage") and version.get("name") not in stored:
                new["status"] = {**(new.get("status") or {}), "storedVersions": [*stored, version["name"]]}

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec, name = obj["spec"], obj["metadata"]["name"]
        names = spec.get("names") or {}
        out: list[FieldError] = []
        plural, group = names.get("plural") or "", spec.get("group") or ""
        if name != f"{plural}.{group}":
            detail = 'must be spec.names.plural+"."+spec.group'
            out.append(errors.invalid_value("metadata.name", name, detail))
        if "." not in group:
            out.append(errors.invalid_value("spec.group", group, "should be a domain with at least one dot"))
        if f".{group}".endswith((".k8s.io", ".kubernetes.io")):
            out.extend(_approval_errors(obj["metadata"].get("annotations") or {}))
        out.extend(
            errors.invalid_value(f"spec.names.{field}", names.get(field), "a DNS-1035 label")
            for field in ("plural", "singular")
            if not is_dns1035_label(names.get(field) or "")
        )
        versions = spec.get("versions") or []
        storage = [v for v in versions if v.get("storage")]
        if len(storage) != 1:
            detail = "must have exactly one version marked as storage version"
            out.append(errors.invalid_value("spec.versions", [v.get("name") for v in versions], detail))
        seen: set[str] = set()
        for index, version in enumerate(versions):
            at = f"spec.versions[{index}]"
            if not is_dns1035_label(version.get("name") or ""):
                out.append(errors.invalid_value(f"{at}.name", version.get("name"), "a DNS-1035 label"))
            if version.get("name") in seen:
                out.append(errors.invalid_value("spec.versions", version["name"], "must contain unique version names"))
            seen.add(version.get("name") or "")
            schema = (version.get("schema") or {}).get("openAPIV3Schema")
            if not schema:
                out.append(errors.required(f"{at}.schema.openAPIV3Schema", "schemas are required"))
                continue
            where = "spec.validation.openAPIV3Schema" if len(versions) == 1 else f"{at}.schema.openAPIV3Schema"
            found = schema_errors(schema, where)
            out.extend(found)
            shared = "spec" if len(versions) == 1 else at
            out.extend(column_errors(version.get("additionalPrinterColumns"), f"{shared}.additionalPrinterColumns"))
            if not found:
                selectable = version.get("selectableFields")
                out.extend(selectable_errors(selectable, Schema(schema), f"{shared}.selectableFields"))
            out.extend(_scale_errors((version.get("subresources") or {}).get("scale"), at))
        if spec.get("preserveUnknownFields"):
            detail = (
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true "
                "in spec.versions[*].schema instead"
            )
            out.append(errors.invalid_value("spec.preserveUnknownFields", True, detail))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        fixed = [e for path in ("spec.group", "spec.names.plural", "spec.names.kind", "spec.scope")
                 for e in immutable(new, old, path)]  # fmt: skip
        return fixed + _stored_version_errors(new)


def _approval_errors(annotations: Object) -> list[FieldError]:
    """Of a CRD in a group that is the Kubernetes community's own."""
    at, approval = f"metadata.annotations[{APPROVAL}]", str(annotations.get(APPROVAL) or "")
    needed = f'protected groups must have approval annotation "{APPROVAL}"'
    see = "see https://github.com/kubernetes/enhancements/pull/1111"
    if not approval:
        return [errors.required(at, f"{needed}, {see}")]
    if approval.startswith("unapproved") or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/]", approval):
        return []
    return [
        errors.invalid_value(at, approval, f'{needed} with either a URL or a reason starting with "unapproved", {see}')
    ]


def _stored_version_errors(crd: Object) -> list[FieldError]:
    """Objects may still be stored in every version that `status.storedVersions` names."""
    at, stored = "status.storedVersions", (crd.get("status") or {}).get("storedVersions") or []
    if not stored:
        return [errors.invalid_value(at, stored, "must have at least one stored version")]
    versions = crd["spec"].get("versions") or []
    out = [errors.invalid_value(at, v["name"], f"must have the storage version {v['name']}")
           for v in versions if v.get("storage") and v.get("name") not in stored]  # fmt: skip
    names = {v.get("name") for v in versions}
    out += [
        errors.invalid_value(
            f"{at}[{index}]",
            name,
            f"missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions "
            f"until a storage migration ensures no data remains persisted in {name} and removes {name} from "
            "status.storedVersions",
        )
        for index, name in enumerate(stored)
        if name not in names
    ]
    return out


def _scale_errors(scale: Object | None, at: str) -> list[FieldError]:
    if scale is None:
        return []
    roots = {"specReplicasPath": ".spec", "statusReplicasPath": ".status"}
    return [
        errors.invalid_value(
            f"{at}.subresources.scale.{field}", scale.get(field), f"should be a json path under {root}"
        )
        for field, root in roots.items()
        if not str(scale.get(field) or "").startswith(f"{root}.")
    ]
