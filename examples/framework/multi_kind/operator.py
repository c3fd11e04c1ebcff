"""Two kinds that know each other: a Project names its Team, a Team counts its Projects.

Each Project gets a ConfigMap with the members of its Team. When a Team changes, its Projects are
reconciled; when a Project comes, goes or moves to another Team, the Teams are. Both find one another
through an index, so nothing is listed to be thrown away.
"""

from collections.abc import Iterable
from typing import Any

from agentops.controller import Builder, EnqueueMapped, Manager, ManagerOptions, Request, ensure
from agentops.kube import load_config
from agentops.kube.kinds import CONFIG_MAP
from agentops.net.serve import run_until_signal
from agentops.values.kinds import Kind

TEAM = Kind("examples.agentops.io", "v1", "Team", "teams")
PROJECT = Kind("examples.agentops.io", "v1", "Project", "projects")


def team_of(project: dict[str, Any]) -> Iterable[Request]:
    return [Request(project["metadata"]["namespace"], project["spec"]["team"])]


class Teams:
    def __init__(self, manager: Manager) -> None:
        self.client = manager.client
        projects = Builder(manager).for_(PROJECT).owns(CONFIG_MAP).watches(TEAM, EnqueueMapped(self.projects_of))
        projects.build(self.reconcile_project)
        Builder(manager).for_(TEAM).watches(PROJECT, EnqueueMapped(team_of)).build(self.reconcile_team)
        manager.cache.add_index(PROJECT, "team", lambda project: [project["spec"]["team"]])

    async def projects_of(self, team: dict[str, Any]) -> list[Request]:
        metadata = team["metadata"]
        found = await self.client.list(PROJECT, metadata["namespace"], index=("team", metadata["name"]))
        return [Request.of(project) for project in found]

    async def reconcile_project(self, request: Request) -> None:
        project = await self.client.try_get(PROJECT, request.name, request.namespace)
        if project is None:
            return
        team = await self.client.try_get(TEAM, project["spec"]["team"], request.namespace)
        members = "\n".join(team["spec"]["members"]) if team else ""
        wanted = {"metadata": {"name": f"{request.name}-members", "namespace": request.namespace}}
        await ensure(self.client, CONFIG_MAP, {**wanted, "data": {"members": members}}, owner=project)

    async def reconcile_team(self, request: Request) -> None:
        team = await self.client.try_get(TEAM, request.name, request.namespace)
        if team is None:
            return
        status = {"projects": len(await self.projects_of(team))}
        if team.get("status") != status:
            await self.client.patch(TEAM, request.name, {"status": status}, request.namespace, subresource="status")


async def main() -> None:
    manager = Manager(await load_config(), ManagerOptions(name="teams", probes_bind=":8081"))
    Teams(manager)
    await manager.run()


if __name__ == "__main__":
    run_until_signal(main)
