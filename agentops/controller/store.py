"""Objects of one kind by key, and indices over them.

An entry is the metadata and the bytes that came over the wire; a read decodes them, so every reader
has a private copy and nobody can spoil the cache. Knows nothing of watches and the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from agentops.kube.watch import MalformedObject, Meta, decode_object
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

log = get_logger("controller.store")

Key = tuple[str, str]
"""(namespace, name); the namespace of cluster-scoped objects is empty."""

IndexFn = Callable[[dict[str, Any]], Iterable[str]]
"""Object to the values it is found under."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One cached object. `rv` is the resource version as a number, -1 when it is not one."""

    kind: Kind
    meta: Meta
    raw: bytes
    rv: int

    @property
    def key(self) -> Key:
        return self.meta.namespace, self.meta.name

    def object(self) -> dict[str, Any]:
        """A private copy of the whole object, with the `apiVersion` and `kind` that lists leave out.

        Raises MalformedObject for what only looked like an object when it came.
        """
        try:
            decoded: dict[str, Any] = {"apiVersion": "", "kind": "", **decode_object(self.raw)}
        except MalformedObject as error:
            raise MalformedObject(f"{self.kind.resource} {'/'.join(filter(None, self.key))}: {error}") from error
        decoded["apiVersion"] = self.kind.api_version
        decoded["kind"] = self.kind.kind
        return decoded


def version_number(resource_version: str) -> int:
    """The number, or -1: resource versions are opaque by contract, numbers on every real server."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else -1


def _how_to_add(name: str) -> str:
    prefix, _, path = name.partition(":")
    return f"add it with cache.add_field_index(kind, {path!r})" if prefix == "field" else "add it with cache.add_index"


class Store:
    """Entries by key, by namespace, and by named indices.

    An index function that raises is logged and finds the object under nothing; so is an object that cannot be read.
    """

    def __init__(self, name: str = "", on_failure: Callable[[], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._entries: dict[Key, Entry] = {}
        self._namespaces: dict[str, dict[Key, None]] = {}
        self._functions: dict[str, IndexFn] = {}
        self._indices: dict[str, dict[str, dict[Key, None]]] = {}
        self._indexed: dict[str, dict[Key, frozenset[str]]] = {}
        self._shared: dict[Key, tuple[Entry, dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def keys(self) -> list[Key]:
        return list(self._entries)

    def list(self, namespace: str = "", selector: LabelSelector | None = None) -> Iterator[Entry]:
        """Entries of a namespace (all when empty) whose labels match. A snapshot."""
        return iter(self._select(self._keys_in(namespace), selector))

    def by_index(
        self, name: str, value: str, namespace: str = "", selector: LabelSelector | None = None
    ) -> Iterator[Entry]:
        """Entries that index `name` has under `value`. Raises KeyError for an unknown index."""
        try:
            index = self._indices[name]
        except KeyError:
            raise KeyError(f"{self._name} has no index {name!r}; {_how_to_add(name)}") from None
        keys: Iterable[Key] = index.get(value, {})
        if namespace:  # a value may be everywhere, or a namespace hold everything
            few, many = sorted((index.get(value, {}), self._namespaces.get(namespace, {})), key=len)
            keys = [key for key in few if key in many]
        return iter(self._select(keys, selector))

    def shared(self, entry: Entry) -> dict[str, Any]:
        """The object decoded once for all who promise not to change it; kept until the entry is replaced."""
        known = self._shared.get(entry.key)
        if known is None or known[0] is not entry:
            known = entry, entry.object()
            if self._entries.get(entry.key) is entry:
                self._shared[entry.key] = known
        return known[1]

    def has_index(self, name: str) -> bool:
        return name in self._functions

    def indexed_under(self, name: str, key: Key, value: str) -> bool:
        """Whether index `name` has the object under `value`. Raises KeyError for an unknown index."""
        if name not in self._indexed:
            raise KeyError(f"{self._name} has no index {name!r}; {_how_to_add(name)}")
        return value in self._indexed[name].get(key, ())

    def index_values(self, name: str) -> Iterable[str]:
        """The values an index has objects under."""
        return list(self._indices[name])

    def add_index(self, name: str, function: IndexFn) -> None:
        """Index existing and later objects. Raises ValueError when the name is taken."""
        if name in self._functions:
            raise ValueError(f"{self._name} has an index {name!r} already")
        self._functions[name] = function
        self._indices[name], self._indexed[name] = {}, {}
        for entry in self._entries.values():
            self._index(entry, (name,))

    def put(self, entry: Entry) -> Entry | None:
        """Store; the entry it replaces, if any."""
        key = entry.key
        old = self._entries.get(key)
        self._entries[key] = entry
        if self._shared:
            self._shared.pop(key, None)
        if old is None:
            self._namespaces.setdefault(key[0], {})[key] = None
        if self._functions and (old is None or old.raw != entry.raw):
            self._index(entry, self._functions)
        return old

    def remove(self, key: Key) -> Entry | None:
        """Forget; the entry that was there, if any."""
        old = self._entries.pop(key, None)
        if old is None:
            return None
        self._shared.pop(key, None)
        members = self._namespaces[key[0]]
        del members[key]
        if not members:
            del self._namespaces[key[0]]
        for name in self._functions:
            self._unindex(name, key)
        return old

    def replace(self, entries: Iterable[Entry]) -> dict[Key, Entry]:
        """Make `entries` the whole content, in one step; what was there before."""
        replacement = Replacement(self)
        for entry in entries:
            replacement.add(entry)
        return replacement.commit()

    def _keys_in(self, namespace: str) -> Iterable[Key]:
        return self._namespaces.get(namespace, {}) if namespace else self._entries

    def _select(self, keys: Iterable[Key], selector: LabelSelector | None) -> Iterable[Entry]:
        entries = [self._entries[key] for key in keys]
        if selector is None or selector.empty:
            return entries
        return [entry for entry in entries if selector.matches(entry.meta.labels)]

    def _index(self, entry: Entry, names: Iterable[str]) -> None:
        """Find the object under what the indices `names` say of it; it is decoded once for all of them."""
        try:
            obj = entry.object()
        except MalformedObject:
            self._failed(", ".join(names), entry.key)
            for name in names:
                self._unindex(name, entry.key)
            return
        for name in names:
            self._reindex(name, entry.key, obj)

    def _failed(self, name: str, key: Key) -> None:
        if self._on_failure is not None:
            self._on_failure()
        log.exception("index.failed", store=self._name, index=name, namespace=key[0], name=key[1])

    def _reindex(self, name: str, key: Key, obj: dict[str, Any]) -> None:
        try:
            found = self._functions[name](obj)
            if isinstance(found, str):
                raise TypeError(f"index {name!r} returned the string {found!r}; return a list of strings")
            values = frozenset(found)
        except Exception:
            self._failed(name, key)
            values = frozenset()
        if values == self._indexed[name].get(key, frozenset()):
            return
        self._unindex(name, key)
        if values:
            self._file(name, key, values)

    def _file(self, name: str, key: Key, values: frozenset[str]) -> None:
        self._indexed[name][key] = values
        index = self._indices[name]
        for value in values:
            index.setdefault(value, {})[key] = None

    def _unindex(self, name: str, key: Key) -> None:
        index = self._indices[name]
        for value in self._indexed[name].pop(key, ()):
            members = index[value]
            del members[key]
            if not members:
                del index[value]


class Replacement:
    """The next content of a store, filled bit by bit while the store still answers with the last one.

    Until `commit` nobody else may write to the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = Store(store._name, store._on_failure)
        for name, function in store._functions.items():
            self._next.add_index(name, function)

    def add(self, entry: Entry) -> None:
        """One object of the next content."""
        store, following, key = self._store, self._next, entry.key
        known = store._entries.get(key)
        if known is None or known.raw != entry.raw or key in following._entries:
            following.put(entry)
            return
        following._entries[key] = entry  # unchanged: found under what it was found under
        following._namespaces.setdefault(key[0], {})[key] = None
        for name in following._functions:
            if values := store._indexed[name].get(key):
                following._file(name, key, values)

    def commit(self) -> dict[Key, Entry]:
        """Make it the content, in one step; what was there before."""
        store, following = self._store, self._next
        for name in store._functions.keys() - following._functions.keys():  # added meanwhile
            following.add_index(name, store._functions[name])
        old = store._entries
        store._entries, store._namespaces, store._shared = following._entries, following._namespaces, {}
        store._indices, store._indexed = following._indices, following._indexed
        return old
