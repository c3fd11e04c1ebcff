"""B6: the API server is killed and comes back on the same port: how soon the Widgets controller works again.

From the server's first answer to a change being settled; what the server was asked for meanwhile is in its audit log.
The variant: while the controller cannot reach it, Widgets are changed, and what happened is forgotten, so that the
watches are answered with 410.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import yaml

from benchmarks.cluster import api_server, widgets_on
from benchmarks.measure import Child, cores, own_command
from benchmarks.report import Result, add_common_arguments, finish, once

METRICS = {
    "recovery_s": "from the server's return to a change being settled, s",
    "lists": "lists, streamed or not, after the return",
    "watches": "watches after the return",
    "writes": "writes after the return, but for two per change",
    "wrong": "wrong ConfigMaps",
}


async def measure(directory: Path, objects: int, outage_s: float, expired: bool) -> dict[str, float]:
    """One outage; with `expired` a tenth of the Widgets changes meanwhile and history is lost."""
    missed = max(1, objects // 10) if expired else 0
    audit = directory / "audit.log"
    with api_server(directory, "--audit", str(audit), keep=True, cpus=cores()[0]) as (server, kubeconfig):
        port = urlsplit(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]).port or 0
        env = {"KUBECONFIG": str(kubeconfig)}
        with Child(own_command("benchmarks.widgets"), directory / "widgets.log", env=env, cpus=cores()[1]) as child:
            async with widgets_on(kubeconfig, objects) as widgets:
                await widgets.create()
                await widgets.all_settled(timeout_s=60 + objects / 10, contender=child)
                key = widgets.names[0]
            await anyio.sleep(1.0)
            server.kill()
            if missed:
                with api_server(directory, keep=True, cpus=cores()[0]) as (_, elsewhere):
                    async with widgets_on(elsewhere, objects, prepare=False) as widgets:
                        for name in widgets.names[1 : missed + 1]:
                            await widgets.change(name, "missed")
            await anyio.sleep(outage_s)
            audit.unlink(missing_ok=True)
            options = ["--audit", str(audit), *(["--forget"] if expired else [])]
            with api_server(directory, *options, keep=True, port=port, cpus=cores()[0]):
                returned = time.monotonic()
                async with widgets_on(kubeconfig, objects, prepare=False) as widgets:
                    with anyio.fail_after(120):
                        await widgets.latency_s(key, "after")
                    recovery_s = time.monotonic() - returned
                    await anyio.sleep(2.0)
                    wrong = await widgets.wrong()
        asked = [json.loads(line) for line in audit.read_text().splitlines()]
    ours = [event for event in asked if "agentops" in str(event.get("userAgent", ""))]
    verbs = [str(event.get("verb")) for event in ours]
    streamed = sum("sendInitialEvents=true" in str(event.get("requestURI")) for event in ours)
    return {
        "recovery_s": recovery_s,
        "lists": verbs.count("list") + streamed,
        "watches": verbs.count("watch") - streamed,
        "writes": sum(verb in ("create", "patch", "update", "delete") for verb in verbs) - 2 * (1 + missed),
        "wrong": wrong,
    }


def run(args: argparse.Namespace) -> Result:
    """Once with the history kept, once without."""
    figures = {}
    for name, expired in (("history kept", False), ("history expired", True)):
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            figures[name] = once(**anyio.run(measure, Path(scratch), args.objects, args.outage_s, expired))
    settings = {"objects": args.objects, "outage_s": args.outage_s}
    return Result("restart", "B6: the API server restarts", METRICS, settings, figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--outage-s", type=float, default=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
