"""SIGKILL of the local plane under load, again and again: what was acknowledged stays, revisions only grow.

Clients create, update and delete ConfigMaps and patch the status of Ingresses, which no controller writes; each has its
own, and notes what was acknowledged and with which resourceVersion. A watcher follows the ConfigMaps across the kills
by the resourceVersion it saw last. After each restart everything is listed and compared.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
from attrs import Factory, define, field
from support.plane import PlaneProcess, plane_process

from agentops.kube import AiohttpTransport, ApiClient, load_config
from agentops.kube.errors import Expired, TransportError, error_from_status
from agentops.kube.kinds import CONFIG_MAP, INGRESS
from agentops.kube.watch import LineSplitter
from agentops.values.kinds import Kind

CLIENTS = 4
OBJECTS = 8
"""ConfigMaps of each client."""
MOST_ACKNOWLEDGED = 120
NAMESPACE = "default"

State = str | None
"""The value an object holds; None when it does not exist."""


@define
class Fact:
    """What one object must hold: what was acknowledged last, or what the write without an answer asked for."""

    value: State = None
    revision: int = 0
    asked: list[State] = Factory(list)


@define
class Figures:
    kills: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    events: int = 0
    resumed: int = 0
    """Watches that went on from before the kill."""
    expired: int = 0
    """Watches that were told 410, and listed again."""
    problems: list[str] = Factory(list)


@define
class Load:
    """What the clients did, and what must hold."""

    rng: random.Random
    figures: Figures = Factory(Figures)
    facts: dict[str, Fact] = Factory(dict)
    revisions: dict[int, str] = Factory(dict)
    """Who got which resourceVersion."""
    highest: int = 0
    enough: anyio.Event = Factory(anyio.Event)
    left: int = 0
    version: int = 0

    def acknowledged(self, name: str, value: State, revision: int) -> None:
        fact, figures = self.facts[name], self.figures
        figures.acknowledged += 1
        if revision:
            holder = self.revisions.setdefault(revision, name)
            if holder != name or revision <= fact.revision:
                figures.problems.append(f"{name}: revision {revision} was given out before, to {holder}")
            fact.revision = revision
            self.highest = max(self.highest, revision)
        fact.value, fact.asked = value, []
        self.left -= 1
        if self.left <= 0:
            self.enough.set()

    def compare(self, there: Mapping[str, tuple[str, int]], list_revision: int) -> None:
        """What the restarted plane holds: value and revision by name."""
        problems = self.figures.problems
        if list_revision < self.highest:
            problems.append(f"the revision went back from {self.highest} to {list_revision}")
        for name, fact in self.facts.items():
            value, revision = there.get(name, (None, 0))
            if value not in [fact.value, *fact.asked]:
                problems.append(f"{name} holds {value!r}, acknowledged was {fact.value!r}, then asked {fact.asked}")
            if fact.asked:
                self.figures.unanswered += 1
                if value == fact.asked[-1]:
                    self.highest = max(self.highest, revision)
            elif value is not None and revision != fact.revision:
                problems.append(f"{name} has revision {revision}, acknowledged was {fact.revision}")
            fact.value, fact.revision, fact.asked = value, max(revision, fact.revision), []
        self.highest = max(self.highest, list_revision)


@define
class Watcher:
    """A cache of the ConfigMaps by watch alone, begun once."""

    figures: Figures
    revision: int = 0
    seen: dict[str, tuple[str, int]] = field(factory=dict)

    async def follow(self, client: ApiClient, *, until: int = 0) -> None:
        """Watch from the last revision until the connection breaks; or, with `until`, until that one was seen."""
        query = [("watch", "true"), ("resourceVersion", str(self.revision)), ("allowWatchBookmarks", "true")]
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        async with client.stream("GET", path, query=query) as answer:
            lines = LineSplitter()
            async for chunk in answer.chunks():
                for line in lines.feed(chunk):
                    self._take(orjson.loads(line))
                if until and self.revision >= until:
                    return

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise error_from_status(event["object"])
        meta = event["object"]["metadata"]
        revision = int(meta["resourceVersion"])
        if event["type"] != "BOOKMARK":
            self.figures.events += 1
            if revision <= self.revision:
                self.figures.problems.append(f"the watch told of revision {revision} after {self.revision}")
            if event["type"] == "DELETED":
                self.seen.pop(meta["name"], None)
            elif "value" in event["object"].get("data", {}):
                self.seen[meta["name"]] = (event["object"]["data"]["value"], revision)
        self.revision = max(self.revision, revision)


async def run(directory: Path, kills: int, seed: int = 0) -> Figures:
    """Kill the plane on `directory` `kills` times."""
    load = Load(random.Random(seed))
    watcher = Watcher(load.figures)
    for number in range(kills + 1):
        with plane_process(directory) as plane:
            async with _client(plane) as client:
                await _check(client, load, watcher, first=number == 0)
                if number == kills:
                    return load.figures
                await _load_until_killed(plane, client, load, watcher)
            load.figures.kills += 1
    raise AssertionError("unreachable")


async def _check(client: ApiClient, load: Load, watcher: Watcher, *, first: bool) -> None:
    there: dict[str, tuple[str, int]] = {}
    maps, revision = await _list(client, CONFIG_MAP, lambda found: str(found["data"]["value"]))
    ingresses, latest = await _list(client, INGRESS, _told)
    there = maps | ingresses
    load.compare(there, revision)
    if first:
        for number in range(CLIENTS):
            name = f"ingress-{number}"
            if name not in there:
                await client.create(INGRESS, _ingress(name))
        watcher.revision, watcher.seen = revision, maps
        return
    # A marker, so that there is an end to wait for, also when the last change was a deletion.
    marker = await client.create(CONFIG_MAP, _map("marker", str(latest)))
    try:
        with anyio.fail_after(60):
            await watcher.follow(client, until=_revision(marker))
    except Expired:
        load.figures.expired += 1
        watcher.revision, watcher.seen = revision, maps
    else:
        load.figures.resumed += 1
        watcher.seen.pop("marker")
        if watcher.seen != maps:
            load.figures.problems.append(f"the watch says {watcher.seen}, the list {maps}")
    await client.delete(CONFIG_MAP, "marker", NAMESPACE)


async def _load_until_killed(plane: PlaneProcess, client: ApiClient, load: Load, watcher: Watcher) -> None:
    load.enough, load.left = anyio.Event(), load.rng.randint(1, MOST_ACKNOWLEDGED)
    async with anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(_write, client, load, number)
        tasks.start_soon(_watch, client, watcher)
        with anyio.fail_after(60):
            await load.enough.wait()
        plane.kill()


async def _watch(client: ApiClient, watcher: Watcher) -> None:
    try:
        await watcher.follow(client)
    except (TransportError, Expired):
        return


async def _write(client: ApiClient, load: Load, number: int) -> None:
    rng = random.Random(load.rng.random())
    try:
        while True:
            load.version += 1
            value = str(load.version)
            if rng.random() < 0.2:
                await _patch_status(client, load, f"ingress-{number}", value)
                continue
            name = f"map-{number}-{rng.randrange(OBJECTS)}"
            fact = load.facts.setdefault(name, Fact())
            if fact.value is None:
                fact.asked.append(value)
                load.acknowledged(name, value, _revision(await client.create(CONFIG_MAP, _map(name, value))))
            elif rng.random() < 0.3:
                fact.asked.append(None)
                await client.delete(CONFIG_MAP, name, NAMESPACE)
                load.acknowledged(name, None, 0)
            else:
                fact.asked.append(value)
                load.acknowledged(name, value, _revision(await client.update(CONFIG_MAP, _map(name, value))))
    except TransportError:
        return


async def _patch_status(client: ApiClient, load: Load, name: str, value: str) -> None:
    fact = load.facts.setdefault(name, Fact(value="0"))
    fact.asked.append(value)
    patch = {"status": {"loadBalancer": {"ingress": [{"hostname": value}]}}}
    found = await client.patch(INGRESS, name, patch, NAMESPACE, subresource="status")
    load.acknowledged(name, value, _revision(found))


async def _list(
    client: ApiClient, kind: Kind, value: Callable[[Mapping[str, Any]], str]
) -> tuple[dict[str, tuple[str, int]], int]:
    answer = await client.raw("GET", kind.path(NAMESPACE))
    body = orjson.loads(answer.body)
    ours = [item for item in body["items"] if item["metadata"]["name"] != "kube-root-ca.crt"]
    found = {item["metadata"]["name"]: (value(item), _revision(item)) for item in ours}
    return found, _revision(body)


@asynccontextmanager
async def _client(plane: PlaneProcess) -> AsyncIterator[ApiClient]:
    async with AiohttpTransport(await load_config(str(plane.kubeconfig))) as transport:
        yield ApiClient(transport)


def _map(name: str, value: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"value": value}}


def _ingress(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    return {"apiVersion": INGRESS.api_version, "kind": "Ingress", "metadata": meta, "spec": {"defaultBackend": backend}}


def _revision(obj: Mapping[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _told(ingress: Mapping[str, Any]) -> str:
    told = ingress.get("status", {}).get("loadBalancer", {}).get("ingress") or [{"hostname": "0"}]
    return str(told[0]["hostname"])
