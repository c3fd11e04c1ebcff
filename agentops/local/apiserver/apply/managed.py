"""managedFields: who owns which field, kept true by every write.

An Apply owns what its configuration says; an Update owns what it changed. Applying a value that
another manager holds differently is a conflict unless forced.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import define, evolve, field

from agentops.local.apiserver import errors
from agentops.local.apiserver.apply.compare import Path, difference, object_fields
from agentops.local.apiserver.apply.fields import build, members
from agentops.local.apiserver.apply.merge import merge, remove
from agentops.local.apiserver.errors import ApiFailure
from agentops.local.apiserver.schema.structural import Schema

_MAX_UPDATE_MANAGERS = 10


@define(slots=True)
class Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""
    time: str = ""
    paths: set[Path] = field(factory=set)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.name, self.operation, self.api_version if self.operation == "Update" else "", self.subresource)

    def entry(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": build(self.paths),
        }
        if self.subresource:
            found["subresource"] = self.subresource
        return found


def read(obj: dict[str, Any]) -> list[Manager]:
    """The managers of a live object; entries that make no sense are skipped."""
    found = []
    for entry in (obj.get("metadata") or {}).get("managedFields") or []:
        if not isinstance(entry, dict) or entry.get("operation") not in ("Apply", "Update"):
            continue
        found.append(
            Manager(
                entry.get("manager", ""),
                entry["operation"],
                entry.get("apiVersion", ""),
                entry.get("subresource", ""),
                entry.get("time", ""),
                members(entry.get("fieldsV1") or {}),
            )
        )
    return found


def store(obj: dict[str, Any], managers: list[Manager]) -> None:
    """Write the managers into `obj`, applies first, as the real server orders them."""
    entries = [m.entry() for m in sorted(managers, key=lambda m: (m.operation, m.time, m.name)) if m.paths]
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def manager_name(field_manager: str, user_agent: str) -> str:
    """What the request says, else the first part of its User-Agent, else `unknown`."""
    name = field_manager or re.split(r"[/ ]", user_agent, maxsplit=1)[0]
    return "".join(c for c in name if c.isprintable())[:128] or "unknown"


def track_update(
    old: dict[str, Any] | None,
    new: dict[str, Any],
    schema: Schema | None,
    who: Manager,
    *,
    reset: tuple[Path, ...] = (),
    client_managed: Any = None,
) -> None:
    """Set `new`'s managedFields after an update by `who`.

    `reset` are subtrees this endpoint cannot write. `client_managed` is what the client sent as
    managedFields: an empty list (or one empty entry) clears them, another list replaces them.
    """
    sent_clear = isinstance(client_managed, list) and client_managed in ([], [{}])
    if old is None:
        managers: list[Manager] = []
        base: dict[str, Any] = {}
    else:
        base = old
        if sent_clear:
            managers = []
            new["metadata"].pop("managedFields", None)
        else:
            managers = read(new if isinstance(client_managed, list) else old)
    diff = difference(base, new, schema)

    def inside(paths: set[Path]) -> set[Path]:
        return {p for p in paths if not any(p[: len(r)] == r for r in reset)}

    touched = inside(diff.added | diff.modified)
    lost = diff.removed
    if old is not None and sent_clear:
        return
    modified = inside(diff.modified)
    for manager in managers:
        if manager.key != who.key:
            manager.paths -= modified
        if lost:
            manager.paths = {p for p in manager.paths if p not in lost and not _below(p, lost)}
    if touched:
        mine = next((m for m in managers if m.key == who.key), None)
        if mine is None:
            mine = evolve(who, paths=set())
            managers.append(mine)
        mine.paths |= touched
        mine.time = who.time
        mine.api_version = who.api_version
    _fold_ancient(managers)
    store(new, managers)


def _below(path: Path, roots: set[Path]) -> bool:
    return any(path[:n] in roots for n in range(1, len(path)))


def _fold_ancient(managers: list[Manager]) -> None:
    updates = [m for m in managers if m.operation == "Update" and not m.subresource]
    if len(updates) <= _MAX_UPDATE_MANAGERS:
        return
    oldest = sorted(updates, key=lambda m: m.time)[: len(updates) - _MAX_UPDATE_MANAGERS + 1]
    folded = Manager("ancient-changes", "Update", oldest[0].api_version, time=oldest[0].time)
    for manager in oldest:
        folded.paths |= manager.paths
        managers.remove(manager)
    managers.append(folded)


def apply(
    live: dict[str, Any],
    applied: dict[str, Any],
    schema: Schema | None,
    who: Manager,
    *,
    force: bool,
    reset: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """The merged object with managedFields, before defaulting. Raises ApiFailure 409 with one cause a conflict.

    Call `settle` after defaulting. `live` is {} (with metadata) for a create.
    """
    managers = read(live)
    said = object_fields(applied, schema)
    said = {p for p in said if not any(p[: len(r)] == r for r in reset)}
    mine = next((m for m in managers if m.key == who.key), None)
    before = set(mine.paths) if mine is not None else set()
    others = [m for m in managers if m is not mine]

    merged = merge(live, {k: v for k, v in applied.items() if (f"f:{k}",) not in reset}, schema)
    changed = difference(live, merged, schema)
    touched = (changed.modified | changed.added) & said
    conflicts = [(manager, path) for manager in others for path in sorted(manager.paths & touched)]
    if conflicts and not force:
        raise conflict_failure(conflicts)
    for manager, path in conflicts:
        manager.paths.discard(path)

    held: set[Path] = set().union(*(m.paths for m in others)) if others else set()
    dropped = before - said - held
    dropped = {p for p in dropped if not any(p[: len(r)] == r for r in reset)}
    # An inner node stays while somebody, me included, still owns something below it.
    alive = held | said
    dropped = {p for p in dropped if not any(a[: len(p)] == p for a in alive)}
    if dropped:
        merged = remove(merged, dropped, alive, schema)
        for name in ("metadata",):
            merged.setdefault(name, {})

    if mine is None:
        mine = evolve(who, paths=set())
        others.append(mine)
    else:
        others.append(mine)
    mine.paths = said
    mine.api_version = who.api_version
    merged["metadata"] = dict(merged["metadata"])
    _keep_times(live, others, mine, who)
    store(merged, others)
    return merged  # type: ignore[no-any-return]


def _keep_times(live: dict[str, Any], managers: list[Manager], mine: Manager, who: Manager) -> None:
    """A configuration applied again unchanged keeps its time, so that nothing changes."""
    previous = next((m for m in read(live) if m.key == mine.key), None)
    same = previous is not None and previous.paths == mine.paths and previous.api_version == mine.api_version
    mine.time = previous.time if same and previous is not None else who.time


def conflict_failure(conflicts: list[tuple[Manager, Path]]) -> ApiFailure:
    """409 as kubectl prints it."""
    by_manager: dict[str, list[str]] = {}
    causes = []
    for manager, path in conflicts:
        label = f'"{manager.name}"'
        if manager.subresource:
            label += f' with subresource "{manager.subresource}"'
        if manager.operation == "Update":
            label += f" using {manager.api_version}"
        text = path_text(path)
        by_manager.setdefault(label, []).append(text)
        causes.append({"reason": "FieldManagerConflict", "message": f"conflict with {label}", "field": text})
    count = len(conflicts)
    noun = "conflict" if count == 1 else "conflicts"
    if len(by_manager) == 1:
        label, texts = next(iter(by_manager.items()))
        listed = f" {texts[0]}" if len(texts) == 1 else "\n" + "\n".join(f"- {t}" for t in texts)
        message = f"Apply failed with {count} {noun}: {noun} with {label}:{listed}"
    else:
        parts = [f"conflicts with {label}:\n" + "\n".join(f"- {t}" for t in texts) for label, texts in
                 sorted(by_manager.items())]  # fmt: skip
        message = f"Apply failed with {count} {noun}: " + "\n".join(parts)
    return ApiFailure(409, "Conflict", message, {"causes": causes})


def path_text(path: Path) -> str:
    """`.spec.containers[name="a"].image`."""
    text = ""
    for key in path:
        kind, _, rest = key.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            import orjson

            keys = orjson.loads(rest)
            text += "[" + ",".join(f"{k}={errors.go_value(v)}" for k, v in sorted(keys.items())) + "]"
        else:
            text += f"[={rest}]"
    return text
