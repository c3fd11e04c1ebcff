"""A ConfigMap for every Page, holding what the page says. Changed or deleted by hand, it comes back."""

from agentops.controller import Builder, Manager, ManagerOptions, Request, ensure
from agentops.controller.predicates import generation_changed
from agentops.kube import load_config
from agentops.kube.kinds import CONFIG_MAP
from agentops.net.serve import run_until_signal
from agentops.values.kinds import Kind

PAGE = Kind("examples.agentops.io", "v1", "Page", "pages")


class Pages:
    def __init__(self, manager: Manager) -> None:
        self.client = manager.client
        Builder(manager).for_(PAGE, (generation_changed,)).owns(CONFIG_MAP).build(self.reconcile)

    async def reconcile(self, request: Request) -> None:
        page = await self.client.try_get(PAGE, request.name, request.namespace)
        if page is None or page["metadata"].get("deletionTimestamp"):
            return  # the garbage collector takes the ConfigMap along
        wanted = {
            "metadata": {"name": request.name, "namespace": request.namespace},
            "data": {"index.html": f"<h1>{page['spec']['title']}</h1>\n{page['spec'].get('body', '')}\n"},
        }
        await ensure(self.client, CONFIG_MAP, wanted, owner=page)
        status = {"observedGeneration": page["metadata"]["generation"], "configMap": request.name}
        if page.get("status") != status:
            await self.client.patch(PAGE, request.name, {"status": status}, request.namespace, subresource="status")


async def main() -> None:
    manager = Manager(await load_config(), ManagerOptions(name="pages", probes_bind=":8081"))
    Pages(manager)
    await manager.run()


if __name__ == "__main__":
    run_until_signal(main)
