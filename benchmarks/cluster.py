"""The API server of a run, and what the harness does to it: make Widgets, change them, watch them settle.

The server is a process of its own (`benchmarks.apiserver`), fresh for every contender, or the cluster of a
kubeconfig, which is cleaned between contenders. Latency is measured here, from a patch being sent to the event that
shows its status; contenders are not asked.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import yaml

from agentops.kube.aiohttp_transport import AiohttpTransport
from agentops.kube.client import ApiClient
from agentops.kube.config import load_config
from agentops.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from agentops.kube.kinds import CONFIG_MAP, CRD, NAMESPACE
from agentops.kube.watch import LineSplitter
from benchmarks.measure import Child, own_command, wait_until
from benchmarks.widgets import CRD_FILE, WIDGET

NAMESPACES = tuple(f"bench-{number}" for number in range(4))
_WRITERS = 16


@contextmanager
def api_server(
    directory: Path, *options: str, keep: bool = False, port: int = 0, cpus: set[int] | None = None
) -> Iterator[tuple[Child, Path]]:
    """A fresh API server process and its kubeconfig."""
    directory.mkdir(parents=True, exist_ok=True)
    kubeconfig = directory / "kubeconfig.yaml"
    kubeconfig.unlink(missing_ok=True)
    command = own_command(
        "benchmarks.apiserver", str(directory), "--port", str(port), *(["--keep"] if keep else []), *options
    )
    with Child(command, directory / "apiserver.log", cpus=cpus) as server:
        wait_until(kubeconfig.exists, timeout_s=30, what="the API server's start", child=server)
        yield server, kubeconfig


class Widgets:
    """The Widgets of a run, as the harness' own watch sees them."""

    def __init__(self, client: ApiClient, count: int) -> None:
        self.client = client
        self.names = [(NAMESPACES[i % len(NAMESPACES)], f"w{i:06d}") for i in range(count)]
        self._settled: dict[tuple[str, str], int] = {}
        self._generations: dict[tuple[str, str], int] = {}
        self._open: set[tuple[str, str]] = set(self.names)
        self._changed = anyio.Event()
        self.settled_at: list[float] = []

    async def prepare(self) -> None:
        """The CRD and namespaces; everything an earlier contender has left is removed."""
        try:
            await self.client.create(CRD, yaml.safe_load(CRD_FILE.read_text()))
        except AlreadyExists:
            pass
        for namespace in NAMESPACES:
            try:
                await self.client.create(NAMESPACE, {"metadata": {"name": namespace}, "kind": "Namespace"})
            except AlreadyExists:
                pass
        with anyio.fail_after(60):
            while True:
                try:
                    await self.clean()
                    return
                except NotFound:
                    await anyio.sleep(0.05)  # the CRD is not served yet

    async def clean(self) -> None:
        """Remove all Widgets and their ConfigMaps."""
        for namespace in NAMESPACES:
            await self.client.delete_collection(WIDGET, namespace)
            for config_map in await self.client.list(CONFIG_MAP, namespace):
                if config_map["metadata"]["name"].startswith("w"):
                    await self._delete(namespace, config_map["metadata"]["name"])

    async def create(self) -> None:
        """All Widgets, with value v0."""

        async def one(key: tuple[str, str]) -> None:
            namespace, name = key
            metadata = {"name": name, "namespace": namespace, "labels": {"app": "bench", "shard": name[-1]}}
            body = {"apiVersion": WIDGET.api_version, "kind": "Widget", "metadata": metadata, "spec": {"value": "v0"}}
            await self.client.create(WIDGET, body)

        await self._each(self.names, one)

    async def burst(self, value: str) -> None:
        """Change every Widget as fast as the server takes it."""
        await self._each(self.names, lambda key: self.change(key, value))

    async def change(self, key: tuple[str, str], value: str) -> int:
        """The generation that a Widget has after getting `value`."""
        changed = await self.client.patch(WIDGET, key[1], {"spec": {"value": value}}, key[0])
        generation = int(changed["metadata"]["generation"])
        if self._settled.get(key, 0) < generation:
            self._open.add(key)
        self._generations[key] = max(generation, self._generations.get(key, 0))
        return generation

    async def latency_s(self, key: tuple[str, str], value: str) -> float:
        """From sending a change to the event that shows it settled."""
        started = time.monotonic()
        generation = await self.change(key, value)
        while self._settled.get(key, 0) < generation:
            await self._changed.wait()
        return time.monotonic() - started

    async def by_hand_s(self, key: tuple[str, str], value: str) -> float:
        """`latency_s` when nobody reconciles: the server's share, three requests one after the other."""
        namespace, name = key
        started = time.monotonic()
        generation = await self.change(key, value)
        await self.client.patch(CONFIG_MAP, name, {"data": {"value": value}}, namespace)
        status = {"status": {"observedGeneration": generation, "phase": "Ready"}}
        await self.client.patch(WIDGET, name, status, namespace, subresource="status")
        while self._settled.get(key, 0) < generation:
            await self._changed.wait()
        return time.monotonic() - started

    async def all_settled(self, *, timeout_s: float, contender: Child | None = None) -> None:
        """Until every Widget's status is Ready of its newest generation. Raises TimeoutError and RuntimeError."""
        deadline = time.monotonic() + timeout_s
        while self._open:
            with anyio.move_on_after(1.0):
                await self._changed.wait()
            if contender is not None:
                contender.require_running()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._open)} of {len(self.names)} Widgets did not settle in {timeout_s:g} s")

    async def wrong(self) -> int:
        """Widgets whose ConfigMap is not what it should be."""
        wrong = 0
        for namespace in NAMESPACES:
            config_maps = {item["metadata"]["name"]: item for item in await self.client.list(CONFIG_MAP, namespace)}
            for widget in await self.client.list(WIDGET, namespace):
                live = config_maps.get(widget["metadata"]["name"], {})
                owners = (live.get("metadata") or {}).get("ownerReferences") or ()
                owned = any(o.get("controller") and o["uid"] == widget["metadata"]["uid"] for o in owners)
                value = (live.get("data") or {}).get("value")
                wrong += not (owned and value == widget["spec"]["value"])
        return wrong

    async def revision(self) -> int:
        """The server's newest resource version of Widgets and ConfigMaps; two equal ones mean that nobody wrote."""
        pages = [await self.client.list_page(kind, limit=1) for kind in (WIDGET, CONFIG_MAP)]
        return max(int(page["metadata"]["resourceVersion"]) for page in pages)

    async def follow(self, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; started when the watch is open."""
        version = str((await self.client.list_page(WIDGET, limit=1))["metadata"]["resourceVersion"])
        query = [("watch", "1"), ("resourceVersion", version), ("timeoutSeconds", "3600")]
        async with self.client.stream("GET", WIDGET.path(), query=query) as answer:
            task_status.started()
            splitter = LineSplitter()
            async for chunk in answer.chunks():
                for line in splitter.feed(chunk):
                    self._saw(orjson.loads(line))
        raise RuntimeError("the harness' own watch ended; run again with fewer objects")

    def _saw(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        if event["type"] not in ("ADDED", "MODIFIED"):
            return
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        status = obj.get("status") or {}
        generation = obj["metadata"]["generation"]
        if status.get("phase") == "Ready" and status.get("observedGeneration") == generation:
            if self._settled.get(key, 0) < generation:
                self._settled[key] = generation
                self.settled_at.append(time.monotonic())
            if generation >= self._generations.get(key, 0):
                self._open.discard(key)
            self._changed.set()
            self._changed = anyio.Event()

    async def _delete(self, namespace: str, name: str) -> None:
        try:
            await self.client.delete(CONFIG_MAP, name, namespace)
        except NotFound:
            pass

    async def _each(self, keys: list[tuple[str, str]], act: Any) -> None:
        """`act` on every key, a few at a time."""
        todo = iter(keys)

        async def work() -> None:
            for key in todo:
                try:
                    await act(key)
                except (Conflict, ApiError) as error:
                    if error.code < 500 and not isinstance(error, Conflict):
                        raise
                    await act(key)

        async with anyio.create_task_group() as tasks:
            for _ in range(_WRITERS):
                tasks.start_soon(work)


@asynccontextmanager
async def widgets_on(kubeconfig: Path, count: int, *, prepare: bool = True) -> AsyncIterator[Widgets]:
    """Widgets of a cluster, watched; nothing is created yet. Without `prepare` what is there stays."""
    async with AiohttpTransport(await load_config(str(kubeconfig))) as transport:
        widgets = Widgets(ApiClient(transport, user_agent="benchmark", field_manager="benchmark"), count)
        if prepare:
            await widgets.prepare()
        async with anyio.create_task_group() as tasks:
            await tasks.start(widgets.follow)
            yield widgets
            tasks.cancel_scope.cancel()
