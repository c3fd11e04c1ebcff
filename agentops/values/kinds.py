"""Kinds: which URL serves which objects.

A `Kind` joins what Kubernetes calls the GVK (what an object says it is) and the GVR (where it is
served), so no code path needs discovery for the kinds it was written for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen


@frozen(slots=True)
class Kind:
    """One served resource.

    `group` is empty for the core group; `plural` is the lower-case resource name of the URL.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`v1` or `apps/v1`: the value of an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """`pods` or `deployments.apps`: how error messages and RBAC name the resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of a collection, an object or a subresource.

        An empty `namespace` on a namespaced kind means the collection over all namespaces.
        """
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether `obj` says it is of this kind (group and kind; any version of the group)."""
        group = str(obj.get("apiVersion", "")).rpartition("/")[0]
        return group == self.group and obj.get("kind") == self.kind

    def __str__(self) -> str:
        return f"{self.kind}.{self.version}.{self.group}" if self.group else f"{self.kind}.{self.version}"
