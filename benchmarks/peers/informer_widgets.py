"""The Widgets controller on the official client's `SharedInformer`.

It has informers but no queue and no reconcilers: a set of keys and eight threads stand in. Its informer cannot list
custom objects as the generated API returns them (plain dicts have an `items` method), so `lister` wraps them.
"""

from __future__ import annotations

import queue
import signal
import threading
from types import SimpleNamespace
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer

_GROUP = ("bench.agentops.io", "v1")


def lister(call: Any, as_dicts: bool) -> Any:
    def list_or_watch(**kwargs: Any) -> Any:
        """List.

        :return: object
        """
        if kwargs.get("watch"):
            return call(**kwargs)
        found = call(**kwargs)
        if not as_dicts:
            return found
        version = found["metadata"]["resourceVersion"]
        return SimpleNamespace(items=found["items"], metadata=SimpleNamespace(resource_version=version))

    return list_or_watch


class Keys:
    """Deduplicated keys; one that is being worked on waits."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._dirty: set[Any] = set()
        self._processing: set[Any] = set()
        self._lock = threading.Lock()

    def add(self, key: Any) -> None:
        with self._lock:
            if key in self._dirty:
                return
            self._dirty.add(key)
            if key not in self._processing:
                self._queue.put(key)

    def get(self) -> Any:
        key = self._queue.get()
        with self._lock:
            self._dirty.discard(key)
            self._processing.add(key)
        return key

    def done(self, key: Any) -> None:
        with self._lock:
            self._processing.discard(key)
            if key in self._dirty:
                self._queue.put(key)


def main() -> None:
    config.load_kube_config()
    custom, core = client.CustomObjectsApi(), client.CoreV1Api()
    keys = Keys()

    def call(**kwargs: Any) -> Any:
        return custom.list_cluster_custom_object(*_GROUP, "widgets", **kwargs)

    widgets = SharedInformer(
        lister(call, True), key_func=lambda w: f"{w['metadata']['namespace']}/{w['metadata']['name']}"
    )
    config_maps = SharedInformer(core.list_config_map_for_all_namespaces)

    def widget_changed(widget: Any) -> None:
        keys.add((widget["metadata"]["namespace"], widget["metadata"]["name"]))

    def config_map_changed(config_map: Any) -> None:
        for owner in config_map.metadata.owner_references or ():
            if owner.controller and owner.kind == "Widget":
                keys.add((config_map.metadata.namespace, owner.name))

    for event in ("ADDED", "MODIFIED", "DELETED"):
        widgets.add_event_handler(event, widget_changed)
        config_maps.add_event_handler(event, config_map_changed)

    def reconcile(namespace: str, name: str) -> None:
        widget = widgets.cache.get_by_key(f"{namespace}/{name}")
        if widget is None or widget["metadata"].get("deletionTimestamp"):
            return
        metadata, value = widget["metadata"], widget["spec"]["value"]
        live = config_maps.cache.get_by_key(f"{namespace}/{name}")
        owned = live is not None and any(
            owner.controller and owner.uid == metadata["uid"] for owner in live.metadata.owner_references or ()
        )
        if live is None or not owned or (live.data or {}).get("value") != value:
            owner = {
                "apiVersion": "bench.agentops.io/v1",
                "kind": "Widget",
                "name": name,
                "uid": metadata["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
            body = {"metadata": {"name": name, "namespace": namespace, "ownerReferences": [owner]}}
            body["data"] = {"value": value}
            if live is None:
                try:
                    core.create_namespaced_config_map(namespace, body)
                except ApiException as error:
                    if error.status != 409:
                        raise
                    core.patch_namespaced_config_map(name, namespace, body)
            else:
                core.patch_namespaced_config_map(name, namespace, body)
        wanted = {"observedGeneration": metadata["generation"], "phase": "Ready"}
        if any((widget.get("status") or {}).get(key) != expected for key, expected in wanted.items()):
            patch = {"status": wanted}
            custom.patch_namespaced_custom_object_status(*_GROUP, namespace, "widgets", name, patch)

    def work() -> None:
        while True:
            key = keys.get()
            try:
                reconcile(*key)
            except ApiException:
                threading.Timer(0.05, keys.add, (key,)).start()
            finally:
                keys.done(key)

    config_maps.start()
    widgets.start()
    for _ in range(8):
        threading.Thread(target=work, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
