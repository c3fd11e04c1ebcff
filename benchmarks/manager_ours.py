"""A manager with nothing to do: informers, a lease, probes. For `idle`, `storm` and `failover`."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import anyio

from agentops.controller import LeaderElectionOptions, Manager, ManagerOptions
from agentops.kube.config import load_config
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging
from agentops.values.kinds import Kind

_BEAT_S = 0.05


async def run(informers: int, probes: str | None, beats: Path | None, identity: str | None, watchdog: bool) -> None:
    """Run until cancelled. While leading, a line `identity time` goes to `beats` twenty times a second."""
    election = LeaderElectionOptions("bench", "default", identity=identity)
    options = ManagerOptions(name="bench", leader_election=election, probes_bind=probes, grace_s=1.0, watchdog=watchdog)
    manager = Manager(await load_config(), options)
    for number in range(informers):
        manager.cache.informer(Kind("", "v1", "Pod", f"storm{number}"))

    async def beat(**_: object) -> None:
        assert beats is not None
        with open(beats, "a", buffering=1) as file:  # noqa: ASYNC230 - a line of thirty bytes
            while True:
                file.write(f"{identity} {time.monotonic():.4f}\n")
                await anyio.sleep(_BEAT_S)

    if beats is not None:
        manager.add(beat, name="beat")
    await manager.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.manager_ours", description=__doc__)
    parser.add_argument("--informers", type=int, default=0)
    parser.add_argument("--probes")
    parser.add_argument("--beats", type=Path)
    parser.add_argument("--identity")
    parser.add_argument("--no-watchdog", action="store_true")
    args = parser.parse_args()
    logging.configure("text", "error")
    run_until_signal(partial(run, args.informers, args.probes, args.beats, args.identity, not args.no_watchdog))


if __name__ == "__main__":
    main()
