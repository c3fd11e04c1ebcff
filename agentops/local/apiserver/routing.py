"""From a URL path to what it is about."""

from __future__ import annotations

from urllib.parse import unquote

from attrs import frozen

from agentops.local.apiserver.auth import Attributes
from agentops.local.apiserver.http import Request

_WRITE_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@frozen(slots=True)
class Route:
    """A path of /api or /apis. `rest` is what follows a proxy subresource, still encoded.

    `watching` is a path of old, `/api/v1/watch/…`, which asks for a watch without a query.
    """

    group: str
    version: str
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    watching: bool = False

    @property
    def is_resource(self) -> bool:
        return bool(self.plural)


def parse(path: str) -> Route | None:
    """None when the path is not below /api or /apis."""
    raw = [part for part in path.split("/") if part]
    parts = [unquote(part) for part in raw]
    if len(parts) >= 2 and parts[0] == "api":
        group, version, at = "", parts[1], 2
    elif len(parts) >= 3 and parts[0] == "apis":
        group, version, at = parts[1], parts[2], 3
    else:
        return None
    parts, raw = parts[at:], raw[at:]
    watching = len(parts) > 1 and parts[0] == "watch"
    if watching:
        parts, raw = parts[1:], raw[1:]
    namespace = ""
    if len(parts) >= 3 and parts[0] == "namespaces" and not (len(parts) == 3 and parts[2] in ("status", "finalize")):
        namespace, parts, raw = parts[1], parts[2:], raw[2:]
    plural = parts[0] if parts else ""
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    rest = "/".join(raw[3:])
    if rest and path.endswith("/"):
        rest += "/"
    if rest and subresource != "proxy":
        return Route(group, version, namespace, plural, name, f"{subresource}/{rest}", watching=watching)
    return Route(group, version, namespace, plural, name, subresource, rest, watching)


def attributes(request: Request, route: Route | None) -> Attributes:
    """What authorization and audit are about."""
    if route is None or not route.is_resource:
        return Attributes(request.method.lower(), path=request.path, is_resource=False)
    method = "GET" if request.method == "HEAD" else request.method
    if method == "GET":
        watching = route.watching or request.flag("watch")
        verb = "watch" if watching else "get" if route.name else "list"
    elif method == "DELETE":
        verb = "delete" if route.name else "deletecollection"
    else:
        verb = _WRITE_VERBS.get(method, method.lower())
    namespace, name = route.namespace, route.name
    if not name and verb in ("list", "watch", "deletecollection"):
        name = _selected_name(request)
    if route.plural == "namespaces" and not route.group and route.name:
        namespace = route.name
    return Attributes(verb, route.group, route.version, route.plural, route.subresource, namespace, name, request.path)


def _selected_name(request: Request) -> str:
    """The one name a field selector leaves: roles with resourceNames decide by it."""
    for term in request.arg("fieldSelector").split(","):
        field, _, value = term.partition("=")
        if field == "metadata.name" and value:
            return value.removeprefix("=")
    return ""
