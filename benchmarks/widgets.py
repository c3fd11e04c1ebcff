"""The yardstick: a small controller, the same in every framework that is compared.

For each Widget it keeps a ConfigMap of the same name with `data.value == spec.value`, controlled by the Widget, and
patches the Widget's status to `{observedGeneration, phase: Ready}`. Eight workers, all namespaces, no leader
election, no servers. It is level-triggered: whatever changes, also the ConfigMap or the status by another hand, is
put right; when all is right it writes nothing.

    KUBECONFIG=... python -m benchmarks.widgets          until SIGTERM
    python -m benchmarks.widgets --crd | kubectl apply -f -
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentops.controller import (
    Builder,
    Client,
    ForeignObject,
    Manager,
    ManagerOptions,
    ObjectEvent,
    Request,
)
from agentops.controller.owners import controller_of, describe, is_controlled_by, set_controller_reference
from agentops.kube.config import load_config
from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging
from agentops.values.kinds import Kind

WIDGET = Kind("bench.agentops.io", "v1", "Widget", "widgets")
CRD_FILE = Path(__file__).with_name("widgets.yaml")
WORKERS = 8


class Widgets:
    """The reconciler."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def reconcile(self, request: Request) -> None:
        widget = await self._client.try_get(WIDGET, request.name, request.namespace)
        if widget is None or widget["metadata"].get("deletionTimestamp"):
            return
        await self._ensure_config_map(widget)
        await self._ensure_status(widget)

    async def _ensure_config_map(self, widget: Mapping[str, Any]) -> None:
        """Raises ForeignObject when somebody else controls the ConfigMap; it is tried again with growing waits."""
        name, namespace = widget["metadata"]["name"], widget["metadata"]["namespace"]
        data = {"value": value_of(widget)}
        live = await self._client.try_get(CONFIG_MAP, name, namespace)
        if live is None:
            wanted: dict[str, Any] = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace},
                "data": data,
            }
            set_controller_reference(widget, wanted)
            await self._client.create(CONFIG_MAP, wanted)
            return
        metadata = live["metadata"]
        if metadata.get("deletionTimestamp"):
            return  # its end wakes us again
        patch: dict[str, Any] = {}
        if (live.get("data") or {}).get("value") != data["value"]:
            patch["data"] = data
        if not is_controlled_by(live, widget):
            _refuse_foreign(live, widget)
            set_controller_reference(widget, live)
            patch["metadata"] = {key: metadata[key] for key in ("ownerReferences", "resourceVersion")}
        if patch:
            await self._client.patch(CONFIG_MAP, name, patch, namespace)

    async def _ensure_status(self, widget: Mapping[str, Any]) -> None:
        if settled(widget):
            return
        metadata = widget["metadata"]
        try:
            await self._client.patch(
                WIDGET, metadata["name"], {"status": wanted_status(widget)}, metadata["namespace"], subresource="status"
            )
        except NotFound:
            return  # deleted meanwhile


def value_of(widget: Mapping[str, Any]) -> str:
    return str((widget.get("spec") or {}).get("value", ""))


def wanted_status(widget: Mapping[str, Any]) -> dict[str, Any]:
    return {"observedGeneration": widget["metadata"]["generation"], "phase": "Ready"}


def settled(widget: Mapping[str, Any]) -> bool:
    """Whether the status says what it should."""
    status = widget.get("status") or {}
    return all(status.get(key) == value for key, value in wanted_status(widget).items())


def worth_a_look(event: ObjectEvent) -> bool:
    """Every event of a Widget but an update of the same generation whose status is right: our own echo."""
    if event.type != "update" or event.old is None or event.new is None or event.resync:
        return True
    return event.old.meta.generation != event.new.meta.generation or not settled(event.object)


def _refuse_foreign(live: Mapping[str, Any], widget: Mapping[str, Any]) -> None:
    """A controller reference to a Widget of this name but another uid is one that was left behind: ours."""
    controller = controller_of(live)
    if controller is not None and not (controller["kind"] == "Widget" and controller["name"] == _name(widget)):
        raise ForeignObject(describe(live), describe(widget), f"{controller['kind']} {controller['name']}")


def _name(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"]["name"])


def add_controller(manager: Manager) -> None:
    """Register the controller with `manager`."""
    builder = Builder(manager).for_(WIDGET, predicates=(worth_a_look,)).owns(CONFIG_MAP)
    builder.with_options(max_concurrent=WORKERS).build(Widgets(manager.client).reconcile)


async def run() -> None:
    """Run on the current cluster until cancelled."""
    options = ManagerOptions(name="widgets", field_manager="widgets", grace_s=5.0, tune_gc=True)
    manager = Manager(await load_config(), options)
    add_controller(manager)
    await manager.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.widgets", description=__doc__)
    parser.add_argument("--crd", action="store_true", help="print the CustomResourceDefinition and end")
    if parser.parse_args().crd:
        sys.stdout.write(CRD_FILE.read_text())
        return
    logging.configure("text", "warning")
    run_until_signal(run)


if __name__ == "__main__":
    main()
