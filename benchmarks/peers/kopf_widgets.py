"""The Widgets controller in kopf.

kopf has no notion of a reconcile by key. This is the cheapest equivalent: handlers of raw events, two dicts as the
cache (its indices cost the square of the number of objects at the start), and no progress annotations, which
`on.create` and `on.update` would write besides. Writes go through the official asynchronous client without its
models. Workers are not limited, which is kopf's default and to its advantage: a limit counts objects that have been
quiet for seconds too.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import kopf
from kubernetes.aio import client, config

_api: dict[str, Any] = {}
_widgets: dict[tuple[str, str], Any] = {}
_config_maps: dict[tuple[str, str], dict[str, Any]] = {}


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    await config.load_kube_config()
    _api["client"] = client.ApiClient()
    settings.posting.enabled = False
    settings.scanning.disabled = True


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    await _api["client"].close()


@kopf.on.event("bench.agentops.io", "v1", "widgets")
async def widget_changed(event: Any, namespace: str, name: str, body: kopf.Body, **_: Any) -> None:
    if event["type"] == "DELETED":
        _widgets.pop((namespace, name), None)
        return
    _widgets[namespace, name] = body
    await reconcile(body)


@kopf.on.event("v1", "configmaps")
async def config_map_changed(event: Any, namespace: str, name: str, body: kopf.Body, **_: Any) -> None:
    if event["type"] == "DELETED":
        _config_maps.pop((namespace, name), None)
    else:
        _config_maps[namespace, name] = {"data": dict(body.get("data") or {}), "metadata": dict(body["metadata"])}
    for owner in body["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner["kind"] == "Widget":
            widget = _widgets.get((namespace, owner["name"]))
            if widget is not None:
                await reconcile(widget)


async def reconcile(widget: Any) -> None:
    metadata, value = widget["metadata"], widget["spec"]["value"]
    namespace, name = metadata["namespace"], metadata["name"]
    if metadata.get("deletionTimestamp"):
        return
    live = _config_maps.get((namespace, name))
    owners = (live["metadata"].get("ownerReferences") if live else None) or ()
    owned = any(owner.get("controller") and owner["uid"] == metadata["uid"] for owner in owners)
    if live is None or live["data"].get("value") != value or not owned:
        await write_config_map(namespace, name, widget, value, live is not None)
    wanted = {"observedGeneration": metadata["generation"], "phase": "Ready"}
    status = widget.get("status") or {}
    if any(status.get(key) != expected for key, expected in wanted.items()):
        path = f"/apis/bench.agentops.io/v1/namespaces/{namespace}/widgets/{name}/status"
        await send("PATCH", path, {"status": wanted})


async def write_config_map(namespace: str, name: str, widget: Any, value: str, exists: bool) -> None:
    owner = {
        "apiVersion": "bench.agentops.io/v1",
        "kind": "Widget",
        "name": name,
        "uid": widget["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    body = {"metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]}, "data": {"value": value}}
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    if not exists:
        try:
            await send("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", **body})
            return
        except client.ApiException as error:
            if error.status != 409:
                raise
    await send("PATCH", f"{path}/{name}", body)


async def send(method: str, path: str, body: dict[str, Any]) -> None:
    content = "application/merge-patch+json" if method == "PATCH" else "application/json"
    api = _api["client"]
    answer = await api.rest_client.request(
        method,
        api.configuration.host + path,
        headers={"Content-Type": content, "Accept": "application/json"},
        body=body,
    )
    json.loads(await answer.read())


if __name__ == "__main__":
    asyncio.run(kopf.operator(clusterwide=True, standalone=True))
