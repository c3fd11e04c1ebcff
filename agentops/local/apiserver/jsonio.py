"""Request bodies: JSON, YAML 1.2-ish, Kubernetes protobuf; and finding duplicate JSON keys."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from agentops.local.apiserver import errors
from agentops.local.apiserver.protobuf import MAGIC, decode_envelope

ACCEPTED = ("application/json", "application/yaml")

_MAX_YAML_NODES = 100_000
"""What a document with aliases may grow to."""
_MAX_YAML_DEPTH = 250


def media_type(header: str) -> str:
    """The bare type of a Content-Type."""
    return header.partition(";")[0].strip().lower()


def decode_body(body: bytes, content_type: str) -> Any:
    """The object a body stands for. Raises ApiFailure 400 or 415."""
    kind = media_type(content_type)
    if kind == "application/vnd.kubernetes.protobuf" or (not kind and body.startswith(MAGIC)):
        return decode_envelope(body)
    if kind in ("application/yaml", "application/x-yaml", "text/yaml"):
        return decode_yaml(body)
    if kind in ("", "application/json") or kind.endswith("+json"):
        return decode_json(body)
    raise errors.unsupported_media_type([*ACCEPTED, "application/vnd.kubernetes.protobuf"])


def decode_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def decode_yaml(body: bytes) -> Any:
    """YAML as kubectl reads it: only true and false are booleans, timestamps stay text, huge integers become floats."""
    import yaml

    try:
        value = yaml.load(body, Loader=_loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise errors.bad_request(f"error converting YAML to JSON: {error}") from error
    if b"*" in body:
        value = _without_aliases(value)
    return value


def _without_aliases(value: Any) -> Any:
    """A copy in which nothing is shared. Raises ApiFailure 400 for aliases that blow up or contain themselves."""
    left = _MAX_YAML_NODES

    def copy(node: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _MAX_YAML_DEPTH:
            raise errors.bad_request("error converting YAML to JSON: yaml: document contains excessive aliasing")
        if isinstance(node, dict):
            return {key: copy(item, depth + 1) for key, item in node.items()}
        if isinstance(node, list):
            return [copy(item, depth + 1) for item in node]
        return node

    return copy(value, 0)


_LOADER: list[Any] = []


def _loader() -> Any:
    if not _LOADER:
        import yaml

        base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

        class Loader(base):  # type: ignore[misc]
            """Safe, without YAML 1.1's yes/no/on/off and timestamps, with integers as wide as JSON's."""

            def construct_wide_int(self, node: Any) -> int | float:
                value: int = self.construct_yaml_int(node)
                return value if -(1 << 63) <= value < 1 << 63 else float(value)

        drop = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
        Loader.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag not in drop]
            for first, resolvers in base.yaml_implicit_resolvers.items()
        }
        Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF"))
        Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_wide_int)
        _LOADER.append(Loader)
    return _LOADER[0]


def duplicate_fields(body: bytes, decoded: Any) -> list[str]:
    """Paths of keys that occur twice in one object, e.g. `spec.model`. `decoded` is what the body decodes to."""
    try:
        if body == orjson.dumps(decoded):  # as most clients write it; what had occurred twice would be missing
            return []
    except orjson.JSONEncodeError:  # too deep, or out of YAML: the long way
        pass
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in items:
            if key in result:
                result.setdefault(_MARK, []).append(key)
            result[key] = value
        return result

    try:
        root = json.loads(body, object_pairs_hook=pairs)
    except ValueError:
        return []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            found.extend(f"{path}.{key}" if path else key for key in value.get(_MARK, ()))
            for key, item in value.items():
                if key is not _MARK:
                    walk(item, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, f"{path}[{index}]")

    walk(root, "")
    return sorted(found)


_MARK = "\0duplicates"
