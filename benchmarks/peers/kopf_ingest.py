"""kopf's side of `benchmarks.ingest`: an index as the cache and an empty handler of raw events."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import aiohttp
import kopf
import yaml

from benchmarks.objects import SENTINEL


def register(kind: str) -> None:
    resource = ("v1", "pods") if kind == "pods" else ("bench.agentops.io", "v1", "widgets")
    with open(os.environ["KUBECONFIG"]) as file:
        server = yaml.safe_load(file)["clusters"][0]["cluster"]["server"]

    @kopf.on.startup()
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True

    @kopf.index(*resource)
    async def by_key(namespace: str, name: str, body: kopf.Body, **_: Any) -> dict[tuple[str, str], Any]:
        return {(namespace, name): body}

    @kopf.on.event(*resource)
    async def changed(name: str, **_: Any) -> None:
        if name == SENTINEL:
            async with aiohttp.ClientSession() as session, session.get(f"{server}/bench/done"):
                pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", default="pods")
    register(parser.parse_args().kind)
    asyncio.run(kopf.operator(clusterwide=True, standalone=True))
