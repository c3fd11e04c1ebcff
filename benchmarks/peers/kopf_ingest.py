"""kopf's side of `benchmarks.ingest`: an empty handler of raw events, and an index as the cache.

With `--dict` the handler keeps a dict instead: kopf checks all objects of the first list again for each one it has
indexed, so an index costs the square of their number.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import aiohttp
import kopf
import yaml

from benchmarks.latencies import Latencies
from benchmarks.objects import SENTINEL


def register(kind: str, indexed: bool, latencies: Latencies) -> None:
    resource = ("v1", "pods") if kind == "pods" else ("bench.agentops.io", "v1", "widgets")
    with open(os.environ["KUBECONFIG"]) as file:
        server = yaml.safe_load(file)["clusters"][0]["cluster"]["server"]

    @kopf.on.startup()
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True

    cache: dict[tuple[str, str], Any] = {}
    if indexed:

        @kopf.index(*resource)
        async def by_key(namespace: str, name: str, body: kopf.Body, **_: Any) -> dict[tuple[str, str], Any]:
            return {(namespace, name): body}

    @kopf.on.event(*resource)
    async def changed(namespace: str, name: str, body: kopf.Body, **_: Any) -> None:
        latencies.note(body["metadata"].get("labels"))
        if not indexed:
            cache[namespace, name] = body
        if name == SENTINEL:
            latencies.write()
            async with aiohttp.ClientSession() as session, session.get(f"{server}/bench/done"):
                pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", default="pods")
    parser.add_argument("--dict", action="store_true")
    parser.add_argument("--latencies", default="")
    args = parser.parse_args()
    register(args.kind, not args.dict, Latencies(args.latencies))
    asyncio.run(kopf.operator(clusterwide=True, standalone=True))
