"""What a tool is: a name, a schema the model sees, and a coroutine from arguments to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

Arguments = Mapping[str, Any]
Progress = Callable[[str], None]
"""Takes a piece of what a tool has to say before it is done."""


@frozen
class ToolOutput:
    """`text` is for the model, `metadata` for the console (JSON-able; `ui` names the card).

    `fitted` says that `text` was cut to size already. `whole_in` is a workspace path where all of it stands
    anyway, so that a cut needs no copy.
    """

    text: str
    metadata: dict[str, Any] = field(factory=dict)
    fitted: bool = False
    whole_in: str | None = None


class Tool(Protocol):
    """Raises ToolFault for what the model should read and react to."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of type object; `properties` and `required` are always there."""
        ...

    @property
    def kind(self) -> str:
        """`builtin` or `memory`: where it comes from, for traces."""
        ...

    @property
    def parallel_safe(self) -> bool:
        """Only reads: may run beside other such calls of the same step."""
        ...

    async def run(self, arguments: Arguments) -> ToolOutput:
        """`arguments` are checked against `schema`; keys outside it are gone."""
        ...


@runtime_checkable
class ShowingTool(Tool, Protocol):
    """A tool that shows what it does while it does it."""

    async def run_showing(self, arguments: Arguments, progress: Progress) -> ToolOutput:
        """As `run`; `progress` takes the output's first pieces as they come."""
        ...


def schema(properties: Mapping[str, Mapping[str, Any]], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object schema in the form every provider accepts: nothing null, nothing left out."""
    return {
        "type": "object",
        "properties": {name: dict(value) for name, value in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }


ALIASES: Mapping[str, str] = {"file_path": "path", "filePath": "path"}
"""Names models use for an argument that is called otherwise here."""


def check_arguments(raw: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` as the arguments of a tool with schema `spec`. Raises ValueError naming what is wrong.

    Aliases are renamed, unknown keys dropped, null optional values left out, and numbers or booleans
    that came as text read, because small models write them so.
    """
    if not isinstance(raw, dict):
        raise ValueError("the arguments must be a JSON object")
    properties: Mapping[str, Mapping[str, Any]] = spec["properties"]
    arguments: dict[str, Any] = {}
    for key, value in raw.items():
        name = key if key in properties else ALIASES.get(key, key)
        if name in properties and value is not None and name not in arguments:
            arguments[name] = _typed(name, value, properties[name].get("type", ""))
    missing = [name for name in spec["required"] if name not in arguments]
    if missing:
        raise ValueError(f"missing required argument{'s' if len(missing) > 1 else ''}: {', '.join(missing)}")
    return arguments


def _typed(name: str, value: Any, expected: str) -> Any:
    match expected, value:
        case ("string", str()) | ("array", list()) | ("object", dict()) | ("boolean", bool()):
            return value
        case "integer", int() if not isinstance(value, bool):
            return value
        case "integer", float() if value.is_integer():
            return int(value)
        case "integer", str() if value.strip().lstrip("-").isdigit():
            return int(value)
        case "boolean", "true" | "false":
            return value == "true"
        case "string", int() | float() if not isinstance(value, bool):
            return str(value)
    raise ValueError(f"argument {name} must be of type {expected}, got {type(value).__name__}")
