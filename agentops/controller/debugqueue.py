"""`/debug/queue`: what is queued, and why (controller-runtime has no such page; its users ask for one).

GET /debug/queue                                    every controller, its last keys, each with its last trigger
GET /debug/queue?controller=agent&limit=500         one controller, more keys
GET /debug/queue?controller=agent&namespace=a&name=b    one key with its last 32 triggers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import orjson
from attrs import asdict
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentops.controller.controller import Controller
from agentops.controller.reconcile import Request
from agentops.controller.triggers import Trigger
from agentops.values.clock import rfc3339

_LIMIT = 100


def queue_route(controllers: Mapping[str, Controller]) -> Route:
    """Of controllers that were made with `explain`; those that come later are shown too."""

    async def answer(request: HttpRequest) -> Response:
        wanted = request.query_params
        unknown = set(wanted) - {"controller", "namespace", "name", "limit"}
        if unknown:
            return _bad(f"there is no parameter {min(unknown)!r}; take controller, namespace, name or limit")
        only = wanted.get("controller")
        if only is not None and only not in controllers:
            return PlainTextResponse(f"there is no controller {only!r}; there are {', '.join(controllers)}\n", 404)
        limit = wanted.get("limit", str(_LIMIT))
        if not limit.isascii() or not limit.isdigit():
            return _bad(f"limit is {limit!r}; it is a number of keys")
        shown = [controllers[only]] if only is not None else list(controllers.values())
        keys = int(limit[:9])
        page = {"controllers": [_page(each, wanted.get("namespace"), wanted.get("name"), keys) for each in shown]}
        return Response(orjson.dumps(page, option=orjson.OPT_INDENT_2) + b"\n", media_type="application/json")

    return Route("/debug/queue", answer)


def _bad(text: str) -> Response:
    return PlainTextResponse(text + "\n", 400)


def _page(controller: Controller, namespace: str | None, name: str | None, limit: int) -> dict[str, Any]:
    statistics = controller.statistics()
    requests = _matching(controller.triggers or (), namespace, name)
    return {
        "name": controller.name,
        "workers": statistics.workers,
        **asdict(statistics.queue),
        "longestRunningSeconds": round(controller.queue.longest_running_s(), 3),
        "keys": [_key(controller, request, every=name is not None) for request in islice(requests, limit)],
    }


def _matching(requests: Iterable[Request], namespace: str | None, name: str | None) -> Iterable[Request]:
    return (request for request in requests if namespace in (None, request.namespace) and name in (None, request.name))


def _key(controller: Controller, request: Request, *, every: bool) -> dict[str, Any]:
    assert controller.triggers is not None
    triggers = controller.triggers.of(request)
    return {
        "namespace": request.namespace,
        "name": request.name,
        "state": controller.queue.where(request) or "done",
        "failures": controller.queue.num_requeues(request),
        "triggered": controller.triggers.count(request),
        "triggers": [_trigger(each) for each in (triggers if every else triggers[-1:])],
    }


def _trigger(trigger: Trigger) -> dict[str, Any]:
    said: dict[str, Any] = {"at": rfc3339(trigger.at, micro=True), "by": trigger.by, "priority": trigger.priority}
    if trigger.event:
        said |= {
            "event": trigger.event,
            "namespace": trigger.namespace,
            "name": trigger.name,
            "resourceVersion": trigger.resource_version,
        }
    if trigger.after_s:
        said["afterSeconds"] = trigger.after_s
    return said
