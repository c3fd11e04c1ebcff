"""A controller under random faults for a long time: nothing missed, nothing kept.

    python -m benchmarks.soak --minutes 3 --objects 1000 [--rate 50] [--seed 1] [--spec TEXT] [--json FILE]

Three processes: an API server over TLS that injects faults into the subject's requests, the subject (a
manager with a controller on ConfigMaps that does live reads now and then), and this one, which writes at
`--rate` a second without faults and samples the subject's memory, sockets and tasks. At the end the
faults stop; the subject's cache must equal the server and every key must have been reconciled at its last
version. Exit code 1 when it is not so.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import socket
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.to_thread
import orjson

from agentops.controller import Builder, Manager, ManagerOptions, Request
from agentops.controller.controller import Controller
from agentops.kube.aiohttp_transport import AiohttpTransport
from agentops.kube.client import ApiClient
from agentops.kube.config import load_config
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import CONFIG_MAP, NAMESPACE
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging
from benchmarks.measure import Child, machine, own_command, wait_until

SPEC = (
    "delay p=0.02 seconds=0.2; throttle p=0.02; error p=0.02; error code=503 p=0.01; unauthorized p=0.01; "
    "reset-before p=0.02; reset-after p=0.2; truncate p=0.1; half-open verb=list p=0.02; half-open verb=get p=0.02; "
    "half-open verb=watch p=0.02; split p=0.5; duplicate p=0.3; drop-bookmark p=0.1; error-event p=0.05; "
    "error-event code=410 p=0.05; expire verb=watch p=0.1"
)
HOST = "127.0.0.1"
NAMESPACES = ("soak-0", "soak-1", "soak-2", "soak-3")
SUBJECT = "system:soak-subject"
SAMPLE_S = 5.0
SETTLE_S = 700.0
"""A half-open watch without bookmark is noticed after at most 615 s."""
_WATCH_CAP_S = 20.0
"""Watches end after so many seconds, so that a short soak has many of them."""


# the server


async def serve(directory: Path, spec: str, seed: int) -> None:
    """An API server with faults for the subject, until cancelled; `faults-off` in the directory ends them."""
    from attrs import evolve

    from agentops.local.apiserver import ApiServer, ServerOptions
    from agentops.local.apiserver.chaos import Chaos, parse
    from agentops.local.apiserver.shell import serve_tls, server_ssl_context
    from agentops.local.kubeconfig import render_kubeconfig
    from agentops.local.pki import ensure_pki

    pki = ensure_pki(directory / "pki", addresses=[HOST])
    sock = socket.create_server((HOST, 0), backlog=512)
    port = sock.getsockname()[1]
    options = ServerOptions(
        host=HOST, port=port, sa_key_pem=pki.sa_key_pem, watch_timeout_s=_WATCH_CAP_S, watch_queue_size=20_000
    )
    context = server_ssl_context(pki.server_cert_path, pki.server_key_path, pki.ca_pem)
    rules = [evolve(rule, user=SUBJECT) for rule in parse(spec)]
    with ApiServer(options) as server, Chaos(server, rules, rng=random.Random(seed)) as chaos:
        server.bootstrap()
        server.middleware.insert(0, _named)
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            await tasks.start(partial(serve_tls, server, sock, context, grace_s=0.5))
            text = render_kubeconfig(
                name="soak", server=f"https://{HOST}:{port}", ca_pem=pki.ca_pem,
                cert_pem=pki.admin_cert_pem, key_pem=pki.admin_key_pem,
            )  # fmt: skip
            _write(directory / "kubeconfig.yaml", text.encode())
            while True:
                _write(directory / "faults.json", orjson.dumps(dict(chaos.fired)))
                chaos.active = not (directory / "faults-off").exists()
                await anyio.sleep(0.5)


async def _named(request: Any, call_next: Any) -> Any:
    """The subject shares the admin's certificate and is known by its user agent."""
    from attrs import evolve

    from agentops.local.apiserver import User

    if request.header("user-agent").startswith("soak-subject"):
        request = evolve(request, user=User(SUBJECT, ("system:masters", "system:authenticated")))
    return await call_next(request)


# the subject


class Subject:
    """The controller under test. Writes what it knows to `state.json` when `report` appears."""

    def __init__(self, manager: Manager, directory: Path) -> None:
        self.manager = manager
        self.directory = directory
        self.seen: dict[str, str | None] = {}
        self.rng = random.Random(3)
        manager.cache.informer(CONFIG_MAP, labels="soak=yes")
        self.controller: Controller = (
            Builder(manager).named("soak").for_(CONFIG_MAP).with_options(max_concurrent=4).build(self.reconcile)
        )
        manager.cache.add_index(CONFIG_MAP, "value", lambda obj: [(obj.get("data") or {}).get("v", "")])

    async def reconcile(self, request: Request) -> None:
        obj = await self.manager.client.try_get(CONFIG_MAP, request.name, request.namespace)
        if obj is not None and self.rng.random() < 0.05:
            try:
                await self.manager.client.live.get(CONFIG_MAP, request.name, request.namespace)
            except NotFound:
                pass
        self.seen[f"{request.namespace}/{request.name}"] = None if obj is None else obj["metadata"]["resourceVersion"]

    async def report(self, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        """Figures twice a second, and the whole state when it is asked for."""
        task_status.started()
        while True:
            reflectors = [s.reflector for s in self.manager.cache.statistics()]
            figures = {
                "tasks": len(anyio.get_running_tasks()),
                "sockets": sum(1 for fd in os.listdir("/proc/self/fd") if _is_socket(fd)),
                "reconciles": self.controller.statistics().reconciles,
                "lists": sum(r.lists for r in reflectors),
                "watches": sum(r.watches for r in reflectors),
                "fenced": sum(s.unseen_writes for s in self.manager.cache.statistics()),
                "objects": sum(s.objects for s in self.manager.cache.statistics()),
                "blocks": sys.getallocatedblocks(),
            }
            _write(self.directory / "figures.json", orjson.dumps(figures))
            asked = self.directory / "report"
            if asked.exists():
                asked.unlink()
                cached = await self.manager.client.list(CONFIG_MAP, consistency="none")
                state = {
                    "seen": self.seen,
                    "cache": {_key(obj): obj["metadata"]["resourceVersion"] for obj in cached},
                    "index": await self._index(),
                }
                _write(self.directory / "state.json", orjson.dumps(state))
            await anyio.sleep(0.5)

    async def _index(self) -> dict[str, list[str]]:
        found = {}
        for value in map(str, range(10)):
            held = await self.manager.client.list(CONFIG_MAP, index=("value", value), consistency="none")
            found[value] = sorted(_key(obj) for obj in held)
        return found


async def subject(directory: Path) -> None:
    """Run the controller until cancelled."""
    from agentops.controller import Scope

    async with AiohttpTransport(await load_config(str(directory / "kubeconfig.yaml"))) as transport:
        options = ManagerOptions(
            name="soak", user_agent="soak-subject", resync_s=0, scopes={CONFIG_MAP: Scope(labels="soak=yes")}
        )
        manager = Manager(transport, options)
        manager.add(Subject(manager, directory).report, name="report")
        await manager.run()


# the driver


class Soak:
    """Writes, samples, and compares in the end."""

    def __init__(self, client: ApiClient, directory: Path, args: argparse.Namespace, child: Child) -> None:
        self.client = client
        self.directory = directory
        self.args = args
        self.child = child
        self.rng = random.Random(args.seed)
        self.names = [(NAMESPACES[i % len(NAMESPACES)], f"c{i:05d}") for i in range(args.objects)]
        self.touched: set[str] = set()
        self.writes = 0
        self.samples: list[dict[str, float]] = []

    async def run(self) -> dict[str, Any]:
        for namespace in NAMESPACES:
            await self.client.create(NAMESPACE, {"metadata": {"name": namespace}})
        started = time.monotonic()
        end = started + self.args.minutes * 60
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sample, started)
            for lane in range(4):
                tasks.start_soon(self._fill, self.names[lane::4])
            # the subject lists while the objects are made
            while time.monotonic() < end:
                began = time.monotonic()
                await self._write_one()
                self.child.require_running()
                await anyio.sleep(max(0.0, 1 / self.args.rate - (time.monotonic() - began)))
            tasks.cancel_scope.cancel()
        (self.directory / "faults-off").touch()
        faults = orjson.loads((self.directory / "faults.json").read_bytes())
        stopped = time.monotonic()
        await anyio.sleep(1)
        await self._write_one()
        wrong = await self._settle()
        return {
            "minutes": self.args.minutes,
            "objects": self.args.objects,
            "writes": self.writes,
            "keys_touched": len(self.touched),
            "faults": faults,
            "faults_total": sum(faults.values()),
            "settled_after_s": round(time.monotonic() - stopped, 1),
            **wrong,
            **self._memory(),
            "end": self._figures(),
        }

    async def _fill(self, names: list[tuple[str, str]]) -> None:
        for namespace, name in names:
            await self._apply(namespace, name)

    async def _write_one(self) -> None:
        namespace, name = self.rng.choice(self.names)
        if self.rng.random() < 0.15:
            try:
                await self.client.delete(CONFIG_MAP, name, namespace)
                self._touched(namespace, name)
            except NotFound:
                pass
        else:
            await self._apply(namespace, name)

    async def _apply(self, namespace: str, name: str) -> None:
        value = str(self.rng.randrange(10))
        metadata = {"name": name, "namespace": namespace, "labels": {"soak": "yes"}}
        data = {"v": value, "text": "grün 青い " * self.rng.randrange(40)}
        try:
            await self.client.create(CONFIG_MAP, {"metadata": metadata, "data": data})
        except AlreadyExists:
            try:
                await self.client.patch(CONFIG_MAP, name, {"data": data}, namespace)
            except NotFound:
                return
        self._touched(namespace, name)

    def _touched(self, namespace: str, name: str) -> None:
        self.writes += 1
        self.touched.add(f"{namespace}/{name}")

    async def _sample(self, started: float) -> None:
        while True:
            await anyio.sleep(SAMPLE_S)
            rss_mib = self.child.rss_bytes() / 2**20
            self.samples.append({"at_s": round(time.monotonic() - started), "rss_mib": rss_mib, **self._figures()})

    def _figures(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = orjson.loads((self.directory / "figures.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def _memory(self) -> dict[str, Any]:
        """Resident memory after warm-up (the first third): the medians of its two halves, and their ratio."""
        warm = [s["rss_mib"] for s in self.samples[len(self.samples) // 3 :]]
        if len(warm) < 2:
            return {"memory_mib": None}
        first, second = (statistics.median(part) for part in (warm[: len(warm) // 2], warm[len(warm) // 2 :]))
        late = self.samples[len(self.samples) // 3 :]
        by_minute = {int(s["at_s"]) // 60: (round(s["rss_mib"], 1), s.get("blocks", 0)) for s in self.samples}
        resident, blocks = zip(*by_minute.values(), strict=True)
        return {
            "memory_mib_by_minute": resident,
            "blocks_by_minute": blocks,
            "memory_mib": {"first_half": round(first, 1), "second_half": round(second, 1), "max": round(max(warm), 1)},
            "memory_growth_percent": round(100 * (second / first - 1), 1),
            "tasks_max": max(int(s.get("tasks", 0)) for s in late),
            "sockets_max": max(int(s.get("sockets", 0)) for s in late),
        }

    async def _settle(self) -> dict[str, Any]:
        """Until nothing is wrong, at most SETTLE_S."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            wrong = await self._compare()
            if not any(wrong.values()) or time.monotonic() > deadline:
                return wrong
            self.child.require_running()
            await anyio.sleep(1)

    async def _compare(self) -> dict[str, Any]:
        live_objects = [o for n in NAMESPACES for o in await self.client.list(CONFIG_MAP, n, labels="soak=yes")]
        live = {_key(o): o["metadata"]["resourceVersion"] for o in live_objects}
        (self.directory / "state.json").unlink(missing_ok=True)
        (self.directory / "report").touch()
        with anyio.fail_after(30):
            while not (self.directory / "state.json").exists():  # noqa: ASYNC110  another process writes it
                await anyio.sleep(0.05)
        state = orjson.loads((self.directory / "state.json").read_bytes())
        cache, seen = state["cache"], state["seen"]
        missed = [key for key in self.touched if seen.get(key) != live.get(key) and (key in live or key in seen)]
        index: Mapping[str, list[str]] = {str(n): [] for n in range(10)}
        for obj in live_objects:
            index[obj["data"]["v"]].append(_key(obj))
        return {
            "cache_differs": sum(cache.get(key) != live.get(key) for key in {*cache, *live}),
            "missed_keys": len(missed),
            "index_differs": sum(sorted(index[value]) != state["index"][value] for value in index),
        }


def _key(obj: Mapping[str, Any]) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """All or nothing, for a reader in another process."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)


async def drive(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One soak: server and subject as children, the figures as the answer."""
    command = own_command("benchmarks.soak", "--serve", str(directory), "--spec", args.spec, "--seed", str(args.seed))
    with Child(command, directory / "server.log") as server:
        ready = (directory / "kubeconfig.yaml").exists
        await anyio.to_thread.run_sync(
            partial(wait_until, ready, timeout_s=30, what="the API server's start", child=server)
        )
        with Child(own_command("benchmarks.soak", "--subject", str(directory)), directory / "subject.log") as child:
            async with AiohttpTransport(await load_config(str(directory / "kubeconfig.yaml"))) as transport:
                client = ApiClient(transport, user_agent="soak-driver", field_manager="soak")
                return await Soak(client, directory, args, child).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50, help="writes a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spec", default=SPEC, help="the faults, as in docs/chaos.md")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--subject", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.configure("text", "error")
    if args.serve:
        run_until_signal(partial(serve, args.serve, args.spec, args.seed))
        return
    if args.subject:
        gc.freeze()
        run_until_signal(partial(subject, args.subject))
        return
    with TemporaryDirectory(prefix="agentops-soak-") as directory:
        figures = anyio.run(drive, Path(directory), args)
    figures["machine"] = machine()
    text = orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode()
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    sys.exit(1 if figures["missed_keys"] or figures["cache_differs"] or figures["index_differs"] else 0)


if __name__ == "__main__":
    main()
