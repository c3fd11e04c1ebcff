"""A controller process that does nothing but lead: `python -m support.leader_process KUBECONFIG NAME`.

Prints `leading NAME` when its leader's work starts.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio

from agentops.controller import LeaderElectionOptions, Manager, ManagerOptions
from agentops.kube import load_config
from agentops.net.serve import run_until_signal


async def main() -> None:
    kubeconfig, name = sys.argv[1:]
    election = LeaderElectionOptions("failover", "default", identity=name)
    manager = Manager(await load_config(kubeconfig), ManagerOptions(leader_election=election))

    async def work(*, task_status: Any) -> None:
        print("leading", name, flush=True)
        await anyio.sleep_forever()

    manager.add(work)
    await manager.run()


if __name__ == "__main__":
    run_until_signal(main)
