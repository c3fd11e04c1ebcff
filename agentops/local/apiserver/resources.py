"""Resources: what is served under one group, version and plural.

A `Resource` joins a Kind with its names, schema, strategy and storage key. Two resources may share
one storage (two versions of a CRD; events of two groups); `outgoing` and `incoming` translate.
The `Registry` is the table of all of them; CRDs come and go in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from attrs import define, field

from agentops.local.apiserver.schema.structural import Schema
from agentops.local.apiserver.strategies.base import Strategy
from agentops.values.kinds import Kind

Object = dict[str, Any]


class Converter(Protocol):
    """Turns objects of one kind into another version. Raises Undecided when it has to ask first."""

    def convert(self, obj: Object, api_version: str) -> Object: ...


VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
TERMINATING_VERBS = ("delete", "deletecollection", "get", "list", "watch")
CRD_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")


@define(slots=True, eq=False)
class Resource:
    """One served resource. `columns` are a CRD's printer columns; `storage` names the table in the store."""

    kind: Kind
    strategy: Strategy
    storage: str
    load_schema: Callable[[], Schema | None]
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS
    columns: list[Object] | None = None
    custom: bool = False
    storage_api_version: str = ""
    preferred: bool = True
    outgoing: Callable[[Object], Object] | None = None
    incoming: Callable[[Object], Object] | None = None
    scale: Object | None = None
    selectable: tuple[str, ...] = ()
    converter: Converter | None = None
    default_since: int | None = None
    """Objects written before this revision may lack defaults of the present schema."""
    deprecation: str = ""
    """What every answer warns of."""
    terminating: bool = False
    """Its CRD is being deleted: no more objects are created."""
    _schema: Schema | None = field(default=None, init=False)
    _loaded: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.singular = self.singular or self.kind.kind.lower()
        self.storage_api_version = self.storage_api_version or self.kind.api_version

    @property
    def schema(self) -> Schema | None:
        if not self._loaded:
            self._schema, self._loaded = self.load_schema(), True
        return self._schema

    @property
    def advertised_verbs(self) -> tuple[str, ...]:
        """What discovery lists; updates go on while the resource terminates, for finalizers to be removed."""
        return TERMINATING_VERBS if self.terminating else self.verbs

    @property
    def group(self) -> str:
        return self.kind.group

    @property
    def plural(self) -> str:
        return self.kind.plural

    @property
    def translated(self) -> bool:
        """Whether stored bytes differ from served bytes."""
        if self.converter is not None:  # what was stored before the storage version changed is in another one
            return True
        return self.outgoing is not None or self.storage_api_version != self.kind.api_version

    def to_served(self, obj: Object) -> Object:
        if self.outgoing is not None:
            return self.outgoing(obj)
        if self.converter is not None:
            return self.converter.convert(obj, self.kind.api_version)
        obj["apiVersion"] = self.kind.api_version
        return obj

    def to_stored(self, obj: Object) -> Object:
        if self.incoming is not None:
            return self.incoming(obj)
        if self.converter is not None:
            return self.converter.convert(obj, self.storage_api_version)
        if self.storage_api_version != self.kind.api_version:
            return {**obj, "apiVersion": self.storage_api_version}
        return obj


class Registry:
    """All resources by (group, version, plural), and a fingerprint for discovery's ETags."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        self._generation = 0

    def add(self, resource: Resource) -> None:
        self._resources[resource.kind.group, resource.kind.version, resource.kind.plural] = resource
        self._generation += 1

    def remove(self, group: str, plural: str) -> None:
        """Every version of a resource."""
        for key in [k for k in self._resources if k[0] == group and k[2] == plural]:
            del self._resources[key]
            self._generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource whose objects say `apiVersion` and `kind`."""
        group, _, version = api_version.rpartition("/")
        for resource in self._resources.values():
            if (resource.kind.group, resource.kind.version, resource.kind.kind) == (group, version, kind):
                return resource
        return None

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources.values())

    def in_group_version(self, group: str, version: str) -> list[Resource]:
        return [r for r in self if r.kind.group == group and r.kind.version == version]

    def groups(self) -> dict[str, list[str]]:
        """Group to versions, both in order of preference."""
        found: dict[str, list[str]] = {}
        for resource in self:
            versions = found.setdefault(resource.kind.group, [])
            if resource.kind.version not in versions:
                versions.append(resource.kind.version)
        return {group: sorted(versions, key=version_rank) for group, versions in found.items()}

    @property
    def generation(self) -> int:
        """Goes up whenever a resource comes, changes or goes."""
        return self._generation

    def touch(self) -> None:
        self._generation += 1


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: GA newest first, then beta, then alpha, then the rest."""
    import re

    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if match is None:
        return (3, 0, 0, version)
    major, stage, minor = match.groups()
    return ({None: 0, "beta": 1, "alpha": 2}[stage], -int(major), -int(minor or 0), "")


def fingerprint(*parts: bytes) -> str:
    """A strong ETag's inside."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest().upper()[:64]
