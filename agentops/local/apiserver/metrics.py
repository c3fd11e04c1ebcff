"""/metrics, with kube-apiserver's name for what both have.

Labels are bounded whatever clients ask for: a resource is named when the server has it, a subresource when it answered.
"""

from __future__ import annotations

from agentops.local.apiserver.auth import Attributes
from agentops.local.apiserver.http import Answer, Response, WebSocketUpgrade
from agentops.local.apiserver.resources import Registry as Resources
from agentops.local.apiserver.store import Store
from agentops.telemetry.metrics import Registry, render

_VERBS = frozenset({"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"})


class ServerMetrics:
    """What one server counts, and how much its store holds."""

    def __init__(self, resources: Resources, store: Store) -> None:
        self._resources = resources
        self._registry = Registry()
        self._requests = self._registry.counter(
            "apiserver_request_total",
            "Answers; a watch counts when it opens.",
            ("verb", "group", "version", "resource", "subresource", "code"),
        )
        for name, doc, value in (
            ("agentops_plane_objects", "Objects stored.", lambda: store.statistics().objects),
            ("agentops_plane_revision", "The newest resourceVersion.", lambda: store.statistics().revision),
            ("agentops_plane_events", "Changes kept for watches.", lambda: store.statistics().ring_events),
        ):
            self._registry.gauge(name, doc).set_function(value)

    def answered(self, about: Attributes | None, answer: Answer) -> None:
        code = 101 if isinstance(answer, WebSocketUpgrade) else answer.status
        verb = about.verb.upper() if about is not None and about.verb in _VERBS else "other"
        group = version = resource = subresource = ""
        if about is not None and self._resources.find(about.group, about.version, about.resource) is not None:
            group, version, resource = about.group, about.version, about.resource
            subresource = about.subresource if code < 400 else ""
        self._requests.labels(verb, group, version, resource, subresource, str(code)).inc()

    def answer(self) -> Response:
        body, content_type = render(self._registry)
        return Response(200, body, {"content-type": content_type})
