"""A directory on this machine for every Folder, removed before the Folder is allowed to go.

The directory stands for anything outside the cluster: a bucket, a DNS record, an account.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from agentops.controller import Builder, Manager, ManagerOptions, Request, Result
from agentops.controller.finalizers import with_finalizer
from agentops.kube import load_config
from agentops.net.serve import run_until_signal
from agentops.values.kinds import Kind

FOLDER = Kind("examples.agentops.io", "v1", "Folder", "folders")
FINALIZER = "examples.agentops.io/directory"


class Folders:
    def __init__(self, manager: Manager, root: Path) -> None:
        self.client, self.root = manager.client, root
        Builder(manager).for_(FOLDER).build(self.reconcile)

    async def reconcile(self, request: Request) -> Result | None:
        folder = await self.client.try_get(FOLDER, request.name, request.namespace)
        if folder is None:
            return None
        return await with_finalizer(self.client, FOLDER, FINALIZER, folder, self.apply, self.clean_up)

    async def apply(self, folder: dict[str, Any]) -> None:
        self.path_of(folder).mkdir(parents=True, exist_ok=True)

    async def clean_up(self, folder: dict[str, Any]) -> Result | None:
        if folder["spec"].get("keepWhileFull") and any(self.path_of(folder).glob("*")):
            return Result(requeue_after=5)  # not yet: the finalizer stays
        shutil.rmtree(self.path_of(folder), ignore_errors=True)
        return None

    def path_of(self, folder: dict[str, Any]) -> Path:
        metadata = folder["metadata"]
        return self.root.joinpath(metadata["namespace"], metadata["name"])


async def main() -> None:
    manager = Manager(await load_config(), ManagerOptions(name="folders", probes_bind=":8081"))
    Folders(manager, Path(os.environ.get("FOLDERS_ROOT", "folders")))
    await manager.run()


if __name__ == "__main__":
    run_until_signal(main)
