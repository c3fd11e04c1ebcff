"""The Widgets controller as a loop over lightkube's list and watch.

lightkube is a client, not a framework: two dicts are the cache, a set of keys and eight tasks are the controller.
A watch that ends is opened again from the last version, or after a 410 with a fresh list.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import PatchType

Widget = create_namespaced_resource("bench.agentops.io", "v1", "Widget", "widgets")


class Loop:
    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.widgets: dict[tuple[str, str], Any] = {}
        self.config_maps: dict[tuple[str, str], Any] = {}
        self.queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.dirty: set[tuple[str, str]] = set()
        self.processing: set[tuple[str, str]] = set()

    def add(self, key: tuple[str, str]) -> None:
        if key not in self.dirty:
            self.dirty.add(key)
            if key not in self.processing:
                self.queue.put_nowait(key)

    def widget_changed(self, widget: Any) -> None:
        self.add((widget.metadata.namespace, widget.metadata.name))

    def config_map_changed(self, config_map: Any) -> None:
        for owner in config_map.metadata.ownerReferences or ():
            if owner.controller and owner.kind == "Widget":
                self.add((config_map.metadata.namespace, owner.name))

    async def follow(self, resource: Any, cache: dict[tuple[str, str], Any], changed: Any) -> None:
        while True:
            listed = self.client.list(resource, namespace="*", chunk_size=500)
            async for obj in listed:
                cache[obj.metadata.namespace, obj.metadata.name] = obj
                changed(obj)
            version = listed.resourceVersion
            try:
                async for event, obj in self.client.watch(resource, namespace="*", resource_version=version):
                    key = (obj.metadata.namespace, obj.metadata.name)
                    if event == "DELETED":
                        cache.pop(key, None)
                    else:
                        cache[key] = obj
                    changed(obj)
            except ApiError:
                await asyncio.sleep(1)

    async def reconcile(self, namespace: str, name: str) -> None:
        widget = self.widgets.get((namespace, name))
        if widget is None or widget.metadata.deletionTimestamp:
            return
        metadata, value = widget.metadata, widget.spec["value"]
        live = self.config_maps.get((namespace, name))
        owners = (live.metadata.ownerReferences if live is not None else None) or ()
        owned = any(owner.controller and owner.uid == metadata.uid for owner in owners)
        if live is None or not owned or (live.data or {}).get("value") != value:
            owner = OwnerReference(
                apiVersion="bench.agentops.io/v1",
                kind="Widget",
                name=name,
                uid=metadata.uid,
                controller=True,
                blockOwnerDeletion=True,
            )
            new = ConfigMap(
                metadata=ObjectMeta(name=name, namespace=namespace, ownerReferences=[owner]), data={"value": value}
            )
            try:
                if live is None:
                    await self.client.create(new)
                else:
                    await self.client.patch(ConfigMap, name, new, namespace=namespace, patch_type=PatchType.MERGE)
            except ApiError as error:
                if error.status.code != 409:
                    raise
                await self.client.patch(ConfigMap, name, new, namespace=namespace, patch_type=PatchType.MERGE)
        wanted = {"observedGeneration": metadata.generation, "phase": "Ready"}
        if any((widget.status or {}).get(key) != expected for key, expected in wanted.items()):
            await self.client.patch(
                Widget.Status, name, {"status": wanted}, namespace=namespace, patch_type=PatchType.MERGE
            )

    async def work(self) -> None:
        while True:
            key = await self.queue.get()
            self.dirty.discard(key)
            self.processing.add(key)
            try:
                await self.reconcile(*key)
            except ApiError:
                asyncio.get_running_loop().call_later(0.05, self.add, key)
            finally:
                self.processing.discard(key)
                if key in self.dirty:
                    self.queue.put_nowait(key)


async def main() -> None:
    loop = Loop(AsyncClient())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [
        asyncio.create_task(loop.follow(ConfigMap, loop.config_maps, loop.config_map_changed)),
        asyncio.create_task(loop.follow(Widget, loop.widgets, loop.widget_changed)),
        *(asyncio.create_task(loop.work()) for _ in range(8)),
    ]
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        task.result()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
