"""A webhook server for `benchmarks.webhooks`: a default and a rule for Widgets, and a cache of Pods beside them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from agentops.controller import AdmissionRequest, Denied, Manager, ManagerOptions, ObjectEvent, WebhookOptions
from agentops.kube.config import load_config
from agentops.kube.kinds import POD
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging
from benchmarks.objects import SENTINEL
from benchmarks.widgets import WIDGET


async def default(widget: dict[str, Any], request: AdmissionRequest) -> None:
    widget["spec"].setdefault("size", "small")


async def validate(widget: dict[str, Any], request: AdmissionRequest) -> list[str]:
    if not widget["spec"].get("value"):
        raise Denied("spec.value is empty; give it a text")
    return []


async def run(bind: str, cert_dir: Path) -> None:
    """Serve until cancelled; the source is told when the last Pod of a list or of the events is in."""
    webhooks = WebhookOptions(bind=bind, cert_dir=cert_dir, self_signed=("127.0.0.1",))
    manager = Manager(await load_config(), ManagerOptions(name="bench", grace_s=1.0, tune_gc=True, webhooks=webhooks))
    manager.webhooks.mutating(WIDGET, default, path="/mutate")
    manager.webhooks.validating(WIDGET, validate, path="/validate")

    async def done(**_: object) -> None:
        await manager.client.live.raw("GET", "/bench/done")

    def handle(event: ObjectEvent) -> None:
        if event.entry.meta.name == SENTINEL:
            manager.add(done, name="done")

    manager.cache.informer(POD).add_handler(handle)
    await manager.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks_ours", description=__doc__)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--cert-dir", type=Path, required=True)
    args = parser.parse_args()
    logging.configure("text", "error")
    run_until_signal(partial(run, args.bind, args.cert_dir))


if __name__ == "__main__":
    main()
