"""Schemas of the built-in kinds, out of the kubernetes-validate wheel's definitions.

The file is read when the first schema is asked for (some 10 ms and 10 MiB) and each definition is
wrapped when something refers to it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import orjson

from agentops.local.apiserver.schema.structural import JSON_SCHEMA, OBJECT_META, SCHEMA_OR_ARRAY, SCHEMA_OR_BOOL, Schema
from agentops.values.kinds import Kind

_VERSION = "v1.37.0-local"


@cache
def definitions() -> dict[str, Any]:
    """Definition name to JSON schema. Raises RuntimeError naming the extra when the wheel is absent."""
    try:
        base = resources.files("kubernetes_validate")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "the API server needs the kubernetes-validate package; install agentops-platform[local]"
        ) from error
    folder = base.joinpath("kubernetes-json-schema")
    file = folder.joinpath(_VERSION, "_definitions.json")
    if not file.is_file():  # another release of the wheel: its newest
        versions = sorted((p.name for p in folder.iterdir() if p.name.endswith("-local")), key=_number)
        file = folder.joinpath(versions[-1], "_definitions.json")
    defs: dict[str, Any] = orjson.loads(file.read_bytes())["$defs"]
    return defs


def _number(name: str) -> tuple[int, ...]:
    numbers = name.removeprefix("v").partition("-")
    return tuple(int(part) for part in numbers[0].split("."))


@cache
def _by_gvk() -> dict[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], str] = {}
    for name, raw in definitions().items():
        gvks = raw.get("x-kubernetes-group-version-kind") or []
        if len(gvks) == 1:
            gvk = gvks[0]
            found[gvk["group"], gvk["version"], gvk["kind"]] = name
    return found


@cache
def definition(name: str) -> Schema:
    raw = definitions()[name]
    if name in (SCHEMA_OR_BOOL, SCHEMA_OR_ARRAY):  # which say nothing of what they hold
        raw = {**raw, "properties": definitions()[JSON_SCHEMA]["properties"]}
    return Schema(raw, definition, name)


def definition_name(kind: Kind) -> str | None:
    return _by_gvk().get((kind.group, kind.version, kind.kind))


def schema_of(kind: Kind) -> Schema | None:
    """The schema of a built-in kind."""
    name = definition_name(kind)
    return None if name is None else definition(name)


def object_meta() -> Schema:
    return definition(OBJECT_META)
