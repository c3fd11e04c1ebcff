"""PolicyRules as values: what one rule allows, and whether one rule covers another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import field, frozen

from agentops.local.apiserver.auth import Attributes

Object = dict[str, Any]


@frozen(slots=True)
class Rule:
    """One PolicyRule, compiled for asking. `raw` is what the role says, with its empty lists left out."""

    raw: Object = field(eq=False)
    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    names: frozenset[str]
    urls: tuple[str, ...]

    @classmethod
    def of(cls, rule: Object) -> Rule:
        kept = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")
        return cls(
            {key: rule[key] for key in kept if rule.get(key)},
            _texts(rule, "verbs"),
            _texts(rule, "apiGroups"),
            _texts(rule, "resources"),
            _texts(rule, "resourceNames"),
            tuple(rule.get("nonResourceURLs") or ()),
        )

    def allows(self, a: Attributes) -> bool:
        """Whether it allows what is asked."""
        if a.verb not in self.verbs and "*" not in self.verbs:
            return False
        if not a.is_resource:
            return any(_path_matches(url, a.path) for url in self.urls)
        if a.group not in self.groups and "*" not in self.groups:
            return False
        if self.names and a.name not in self.names:
            return False
        resources = self.resources
        if "*" in resources:
            return True
        if not a.subresource:
            return a.resource in resources
        return f"{a.resource}/{a.subresource}" in resources or f"*/{a.subresource}" in resources

    def singles(self) -> Iterator[Rule]:
        """One rule for each verb on each resource, name and path."""
        for verb in self.raw.get("verbs") or ():
            for url in self.urls:
                yield Rule.of({"verbs": [verb], "nonResourceURLs": [url]})
            for group in self.raw.get("apiGroups") or ():
                for resource in self.raw.get("resources") or ():
                    for name in self.raw.get("resourceNames") or ("",):
                        named = {"resourceNames": [name]} if name else {}
                        yield Rule.of({"verbs": [verb], "apiGroups": [group], "resources": [resource], **named})

    def covers(self, single: Rule) -> bool:
        """Whether whoever holds this rule holds `single` (one of `singles()`) too."""
        verb = single.raw["verbs"][0]
        if single.urls:
            if verb not in self.verbs and "*" not in self.verbs:
                return False
            return any(_path_matches(pattern, single.urls[0]) for pattern in self.urls)
        resource, _, sub = single.raw["resources"][0].partition("/")
        name = (single.raw.get("resourceNames") or [""])[0]
        return self.allows(Attributes(verb, single.raw["apiGroups"][0], "", resource, sub, "", name))

    def __str__(self) -> str:
        labels = (
            ("apiGroups", "APIGroups"), ("resources", "Resources"), ("resourceNames", "ResourceNames"),
            ("nonResourceURLs", "NonResourceURLs"), ("verbs", "Verbs"),
        )  # fmt: skip
        parts = [
            f"{shown}:[" + " ".join(f'"{v}"' for v in self.raw[key]) + "]" for key, shown in labels if key in self.raw
        ]
        return "{" + ", ".join(parts) + "}"


def compiled(rules: Iterable[Object] | None) -> tuple[Rule, ...]:
    """The rules of a role as they are stored."""
    return tuple(Rule.of(rule) for rule in rules or ())


def _texts(rule: Object, key: str) -> frozenset[str]:
    return frozenset(rule.get(key) or ())


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


Rules = tuple[Rule, ...]

EVERYTHING: Rules = (
    Rule.of({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
    Rule.of({"verbs": ["*"], "nonResourceURLs": ["*"]}),
)
