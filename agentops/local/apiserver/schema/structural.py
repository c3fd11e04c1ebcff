"""The schema tree.

A `Schema` wraps one OpenAPI v3 (CRD) or JSON schema (built-in) object and answers what pruning,
defaulting, validation, patches and apply ask. Children are made when first asked for, so that a
recursive or large definition costs what is used of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Raw = Mapping[str, Any]
Resolve = Callable[[str], "Schema"]
MISSING: Any = object()

_REF = "#/$defs/"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
JSON_SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
SCHEMA_OR_BOOL = f"{JSON_SCHEMA}OrBool"
SCHEMA_OR_ARRAY = f"{JSON_SCHEMA}OrArray"
_FREE = frozenset(
    {
        "io.k8s.apimachinery.pkg.runtime.RawExtension",
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        f"{JSON_SCHEMA}OrStringArray",
    }
)


class Schema:
    """One node. `name` is the built-in definition's name, "" inside CRDs."""

    __slots__ = (
        "_cache",
        "_items",
        "_resolve",
        "_ruled",
        "additional",
        "builtin",
        "default",
        "embedded",
        "format",
        "int_or_string",
        "list_map_keys",
        "list_type",
        "map_type",
        "merge_key",
        "name",
        "nullable",
        "patch_strategies",
        "preserve",
        "properties",
        "quantity",
        "raw",
        "rules",
        "type",
        "usage",
    )

    def __init__(self, raw: Raw, resolve: Resolve | None = None, name: str = "", usage: Raw | None = None) -> None:
        self.raw = raw
        self.name = name
        self.usage: Raw = usage if usage is not None else raw
        self._resolve = resolve
        self.builtin = resolve is not None
        declared = raw.get("type", "")
        self.type: str = next((t for t in declared if t != "null"), "") if isinstance(declared, list) else declared
        self.nullable = bool(raw.get("nullable")) or self.builtin
        self.quantity = name == _QUANTITY
        self.int_or_string = self.quantity or name == _INT_OR_STRING or bool(raw.get("x-kubernetes-int-or-string"))
        self.properties: Raw = raw.get("properties") or {}
        self.additional = raw.get("additionalProperties")
        free = name in _FREE or (
            self.builtin
            and not self.int_or_string
            and not self.properties
            and self.additional is None
            and self.type in ("", "object")
        )
        self.preserve = bool(raw.get("x-kubernetes-preserve-unknown-fields")) or free
        if free:
            self.properties, self.additional = {}, None
        self.embedded = bool(raw.get("x-kubernetes-embedded-resource"))
        self.format: str = raw.get("format", "")
        self.default = raw.get("default", MISSING)
        self.rules: list[Raw] = raw.get("x-kubernetes-validations") or []
        use = self.usage
        self.list_type: str = use.get("x-kubernetes-list-type") or raw.get("x-kubernetes-list-type") or "atomic"
        self.list_map_keys: list[str] = list(
            use.get("x-kubernetes-list-map-keys") or raw.get("x-kubernetes-list-map-keys") or ()
        )
        self.map_type: str = use.get("x-kubernetes-map-type") or raw.get("x-kubernetes-map-type") or "granular"
        self.merge_key: str = use.get("x-kubernetes-patch-merge-key", "")
        self.patch_strategies = frozenset(s for s in str(use.get("x-kubernetes-patch-strategy", "")).split(",") if s)
        self._cache: dict[str, Schema | None] = {}
        self._items: Schema | Any | None = MISSING
        self._ruled: bool | None = None

    def child(self, key: str) -> Schema | None:
        """The schema of a field or map value; None when there is none (unknown or free-form)."""
        try:
            return self._cache[key]
        except KeyError:
            pass
        raw = self.properties.get(key)
        if raw is None and isinstance(self.additional, Mapping):
            if "\0additional" not in self._cache:
                self._cache["\0additional"] = self._make(self.additional)
            return self._cache["\0additional"]
        found = None if raw is None else self._make(raw)
        if raw is not None:
            self._cache[key] = found
        return found

    @property
    def items(self) -> Schema | None:
        """The schema of list items."""
        if self._items is MISSING:
            raw = self.raw.get("items")
            self._items = self._make(raw) if isinstance(raw, Mapping) else None
        return self._items

    def knows(self, key: str) -> bool:
        return key in self.properties or isinstance(self.additional, Mapping) or self.additional is True

    @property
    def ruled(self) -> bool:
        """Whether there are CEL rules here or below, so that most writes skip the walk. For CRDs only."""
        if self._ruled is None:
            self._ruled = _any_rules(self.raw)
        return self._ruled

    @property
    def is_map(self) -> bool:
        """A map with free keys rather than a struct."""
        return not self.properties and self.additional is not None

    # what kube.patches asks of a schema

    def is_merge_list(self) -> bool:
        return "merge" in self.patch_strategies

    def is_replace(self) -> bool:
        return "replace" in self.patch_strategies

    def retains_keys(self) -> bool:
        return "retainKeys" in self.patch_strategies

    def _make(self, raw: Raw) -> Schema:
        ref = raw.get("$ref")
        if ref is None:
            return Schema(raw, self._resolve)
        assert self._resolve is not None
        target = self._resolve(ref.removeprefix(_REF))
        if any(key.startswith("x-kubernetes-") for key in raw):
            return Schema(target.raw, self._resolve, target.name, usage=raw)
        return target


def _any_rules(raw: Any) -> bool:
    if isinstance(raw, Mapping):
        return bool(raw.get("x-kubernetes-validations")) or any(_any_rules(value) for value in raw.values())
    return False
