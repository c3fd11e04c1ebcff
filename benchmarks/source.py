"""An API server that only plays back: lists and events are encoded before anybody connects, so clients are the limit.

Not an API server for tests: it validates nothing and keeps nothing but leases. Lists are served in pages when asked
to (`limit`, `continue`), watches send the prepared events once the list has been reported as handled, then bookmarks.
With `--hold` both wait until the harness has read its clocks.

    GET  /bench/done      a contender has handled the last object of what was sent
    GET  /bench/stats     when what was asked for and done, as JSON
    POST /bench/go        with --hold: answer the first list that waits, then, told again, send the events
    POST /bench/expire    every watch gets a 410
    POST /bench/freeze    every open watch falls silent without being closed

    python -m benchmarks.source DIR --objects N --events M
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import yaml

from benchmarks.latencies import SENT
from benchmarks.objects import SENTINEL, config_map, custom, pod

HOST = "127.0.0.1"
_FIRST = 1_000_000
_CHUNK_BYTES = 256 * 1024
_STAMP = b"0" * 19
_INITIAL = 40
"""Objects of a streaming list per chunk."""
_REFUSED = (
    b'{"kind":"Status","status":"Failure","code":422,"reason":"Invalid","message":"sendInitialEvents: Forbidden"}'
)
_PARTIAL = "as=PartialObjectMetadata"
_MAKE: dict[str, Callable[..., dict[str, Any]]] = {"pods": pod, "widgets": custom, "configmaps": config_map}
_LISTS = {"pods": ("v1", "PodList"), "widgets": ("bench.agentops.io/v1", "WidgetList")}
_RESOURCES: dict[str, list[dict[str, Any]]] = {
    "v1": [
        {"name": name, "singularName": kind.lower(), "namespaced": kind != "Namespace", "kind": kind, "verbs": []}
        for name, kind in (("pods", "Pod"), ("configmaps", "ConfigMap"), ("namespaces", "Namespace"))
    ],
    "bench.agentops.io/v1": [
        {"name": "widgets", "singularName": "widget", "namespaced": True, "kind": "Widget", "verbs": []},
        {"name": "widgets/status", "singularName": "", "namespaced": True, "kind": "Widget", "verbs": ["patch"]},
    ],
}
for _resource in (_RESOURCES["v1"] + _RESOURCES["bench.agentops.io/v1"])[:4]:
    _resource["verbs"] = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Collection:
    """One prepared list and its events; of another kind than pods, widgets and ConfigMaps it is empty."""

    def __init__(
        self, plural: str, objects: int, events: int, *, metadata_only: bool = False, paced: bool = False
    ) -> None:
        make = _MAKE.get(plural)
        self.api_version, self.kind = _LISTS.get(plural, ("v1", "ConfigMapList"))
        self.items: list[bytes] = []
        self.chunks: list[bytes] = []
        self.paced: list[tuple[bytes, bytes]] = []
        """Events with a gap for the time of sending."""
        self.version = self.end_version = _FIRST
        self.played = False
        if make is None or not objects:
            return
        items = [make(i, _FIRST - objects + i) for i in range(objects - 1)]
        items.append(make(objects, _FIRST, SENTINEL))
        self.items = [orjson.dumps(_partial(item) if metadata_only else item) for item in items]
        version, buffer = _FIRST, b""
        for number in range(events):
            version += 1
            last = number == events - 1
            obj = make(objects if last else number % max(1, objects - 1), version, SENTINEL if last else "")
            if paced:
                obj["metadata"]["labels"][SENT] = _STAMP.decode()
                event = b'{"type":"MODIFIED","object":' + orjson.dumps(obj) + b"}\n"
                head, _, tail = event.partition(_STAMP)
                self.paced.append((head, tail))
                continue
            buffer += b'{"type":"MODIFIED","object":' + orjson.dumps(_partial(obj) if metadata_only else obj) + b"}\n"
            if len(buffer) >= _CHUNK_BYTES or last:
                self.chunks.append(buffer)
                buffer = b""
        self.end_version = version

    def page(self, limit: int, token: str) -> bytes:
        """A list answer."""
        start = int(token or 0)
        end = start + limit if limit else len(self.items)
        more = end < len(self.items)
        metadata = {"resourceVersion": str(self.version), **({"continue": str(end)} if more else {})}
        head = json.dumps({"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata})
        return head[:-1].encode() + b',"items":[' + b",".join(self.items[start:end]) + b"]}"


def _partial(obj: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": obj["metadata"]}


class Source:
    """The server."""

    def __init__(
        self,
        objects: int,
        events: int,
        *,
        ignore_limit: bool,
        bookmark_s: float,
        kinds: str,
        streaming: bool,
        hold: bool = False,
        rate: float = 0.0,
    ) -> None:
        self._streaming = streaming
        self._hold, self._rate = hold, rate
        self._go = asyncio.Semaphore(0)
        self._objects, self._events = objects, events
        self._ignore_limit, self._bookmark_s = ignore_limit, bookmark_s
        self._collections: dict[str, Collection] = {}
        self._leases: dict[str, bytes] = {}
        self._version = 10
        self._done = asyncio.Condition()
        self._ends: set[asyncio.Event] = set()
        self._frozen = asyncio.Event()
        self.stats: dict[str, Any] = {"lists": [], "watches": [], "done": [], "held": "", "requests": 0, "bytes": 0}
        for name in kinds.split(","):
            plural, _, form = name.partition(":")
            self._collection(plural, _PARTIAL if form == "metadata" else "")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length") or 0))
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.stats["requests"] += 1
        if query.get("watch", "0").lower() in ("1", "true"):
            collection = self._collection(url.path, headers.get("accept", ""))
            initial = query.get("sendInitialEvents") == "true"
            if initial and not self._streaming:
                self._head(writer, 422, _REFUSED)
                return True
            await self._watch(writer, collection, initial)
            return False
        status, answer = await self._plain(method, url.path, query, body, headers.get("accept", ""))
        self.stats["bytes"] += len(answer)
        self._head(writer, status, answer)
        await writer.drain()
        return True

    def _head(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async def _plain(
        self, method: str, path: str, query: dict[str, str], body: bytes, accept: str
    ) -> tuple[int, bytes]:
        now = time.monotonic()
        if path == "/bench/done":
            self.stats["done"].append(now)
            async with self._done:
                self._done.notify_all()
            return 200, b"{}"
        if path == "/bench/stats":
            return 200, json.dumps(self.stats).encode()
        if path == "/bench/expire":
            for end in self._ends:
                end.set()
            return 200, b"{}"
        if path == "/bench/go":
            self._go.release()
            return 200, b"{}"
        if path == "/bench/freeze":
            self._frozen.set()
            return 200, b"{}"
        if "/leases" in path:
            return self._lease(method, path, body)
        discovered = self._discovery(path)
        if discovered is not None:
            return 200, json.dumps(discovered).encode()
        if method != "GET":
            return 200, body or b"{}"
        if "limit" not in query or query.get("continue", "") == "":
            await self._listed()
        limit = int(query.get("limit") or 0)
        if self._ignore_limit and query.get("resourceVersion") == "0":
            limit = 0
        return 200, self._collection(path, accept).page(limit, query.get("continue", ""))

    async def _watch(self, writer: asyncio.StreamWriter, collection: Collection, initial: bool) -> None:
        if initial:
            await self._listed()
        else:
            self.stats["watches"].append(time.monotonic())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await writer.drain()
        if initial:
            await self._send_initial(writer, collection)
        if (collection.chunks or collection.paced) and not collection.played:
            collection.played = True
            async with self._done:
                await self._done.wait_for(lambda: bool(self.stats["done"]))
            await self._held("events")
            self.stats["events_at"] = time.monotonic()
            for chunk in collection.chunks:
                self._send(writer, chunk)
                await writer.drain()
            await self._send_paced(writer, collection)
        end = asyncio.Event()
        self._ends.add(end)
        kind = collection.kind.removesuffix("List")
        metadata = {"resourceVersion": str(collection.end_version)}
        bookmark = {
            "type": "BOOKMARK",
            "object": {"apiVersion": collection.api_version, "kind": kind, "metadata": metadata},
        }
        try:
            while True:
                if not self._frozen.is_set():
                    self._send(writer, json.dumps(bookmark).encode() + b"\n")
                    await writer.drain()
                try:
                    await asyncio.wait_for(end.wait(), self._bookmark_s)
                except TimeoutError:
                    continue
                gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
                self._send(writer, json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return
        finally:
            self._ends.discard(end)

    async def _send_paced(self, writer: asyncio.StreamWriter, collection: Collection) -> None:
        """So many a second, each with its time of sending in it."""
        started = time.monotonic()
        for number, (head, tail) in enumerate(collection.paced):
            early_s = started + number / self._rate - time.monotonic()
            if early_s > 0:
                await writer.drain()
                await asyncio.sleep(early_s)
            self._send(writer, head + b"%019d" % time.monotonic_ns() + tail)
        await writer.drain()

    async def _listed(self) -> None:
        """A list was asked for: the first one may have to wait."""
        if not self.stats["lists"]:
            await self._held("list")
        self.stats["lists"].append(time.monotonic())

    async def _held(self, what: str) -> None:
        if self._hold:
            self.stats["held"] = what
            await self._go.acquire()
            self.stats["held"] = ""

    async def _send_initial(self, writer: asyncio.StreamWriter, collection: Collection) -> None:
        """A streaming list: every object as ADDED, then the bookmark that says that this was all."""
        for start in range(0, len(collection.items), _INITIAL):
            items = collection.items[start : start + _INITIAL]
            self._send(writer, b"".join(b'{"type":"ADDED","object":' + item + b"}\n" for item in items))
            await writer.drain()
        metadata = {"resourceVersion": str(collection.version), "annotations": {"k8s.io/initial-events-end": "true"}}
        kind = collection.kind.removesuffix("List")
        marker = {"apiVersion": collection.api_version, "kind": kind, "metadata": metadata}
        self._send(writer, json.dumps({"type": "BOOKMARK", "object": marker}).encode() + b"\n")
        await writer.drain()
        self.stats["watches"].append(time.monotonic())

    def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.stats["bytes"] += len(data)
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _lease(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "GET":
            found = self._leases.get(path)
            return (200, found) if found else (404, b'{"kind":"Status","code":404,"reason":"NotFound"}')
        self._version += 1
        obj = orjson.loads(body)
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self._version), "uid": "lease"}
        if method == "POST":
            path = f"{path}/{obj['metadata']['name']}"
        self._leases[path] = orjson.dumps(obj)
        return 201 if method == "POST" else 200, self._leases[path]

    def _discovery(self, path: str) -> dict[str, Any] | None:
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        group = {"groupVersion": "bench.agentops.io/v1", "version": "v1"}
        if path == "/apis":
            groups = [{"name": "bench.agentops.io", "versions": [group], "preferredVersion": group}]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        for version, resources in _RESOURCES.items():
            if path in (f"/api/{version}", f"/apis/{version}"):
                return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return None

    def _collection(self, path: str, accept: str = "") -> Collection:
        plural = path.rpartition("/")[2]
        if plural.startswith("storm"):
            plural = "pods"  # many kinds of the same content
        metadata_only = _PARTIAL in accept
        name = f"{plural}, metadata" if metadata_only else plural
        if name not in self._collections:
            self._collections[name] = Collection(
                plural, self._objects, self._events, metadata_only=metadata_only, paced=bool(self._rate)
            )
        return self._collections[name]


async def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    source = Source(
        args.objects,
        args.events,
        ignore_limit=args.ignore_limit,
        bookmark_s=args.bookmark_s,
        kinds=args.kinds,
        streaming=not args.no_streaming,
        hold=args.hold,
        rate=args.rate,
    )
    server = await asyncio.start_server(source.serve, HOST, 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": f"http://{HOST}:{port}"}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
    written = args.directory / "kubeconfig.yaml.new"
    written.write_text(yaml.safe_dump(document))
    os.replace(written, args.directory / "kubeconfig.yaml")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.source", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--kinds", default="pods", help="to prepare, such as pods,widgets or pods:metadata")
    parser.add_argument("--ignore-limit", action="store_true", help="answer lists at version 0 whole, as a watch cache")
    parser.add_argument("--no-streaming", action="store_true", help="refuse streaming lists, as older servers")
    parser.add_argument("--hold", action="store_true", help="lists and events wait for POST /bench/go")
    parser.add_argument("--rate", type=float, default=0.0, help="events a second; 0 is as fast as they are taken")
    parser.add_argument("--bookmark-s", type=float, default=60.0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
