"""`x-kubernetes-validations`: compiling and evaluating CEL rules.

Built on cel-expr-python, imported when the first rule is seen. Values are handed over as dynamic
ones; unknown functions and variables, and field names the schema does not have, are refused when
the CRD is created, as on a real server. `oldSelf` makes a transition rule: it runs on updates only,
where old and new value correlate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from attrs import frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.schema.cel_functions import MATCHES
from agentops.local.apiserver.schema.structural import MISSING, Schema
from agentops.values.duration import parse_duration

_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_STRINGS = re.compile(r"""r?'''.*?'''|r?\"\"\".*?\"\"\"|r'[^']*'|r"[^"]*"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.S)
_ACCESS = re.compile(r"\b(self|oldSelf)((?:\.\??[A-Za-z_][A-Za-z0-9_]*)+)(\s*\()?")

_PRESENT = "oldSelf__present"
_OVER_BUDGET = "operation cancelled: actual cost limit exceeded"
_WORDS = (
    (r'NOT_FOUND: Key not found in map : "(.*)"', r"no such key: \1"),
    (r"NOT_FOUND: Key not found in map : (.*)", r"no such key: \1"),
    (r"UNKNOWN: Index error: index=(-?\d+) .*", r"index out of bounds: \1"),
    (r"INVALID_ARGUMENT: divide by zero", "division by zero"),
    (r"UNKNOWN: No matching overloads found .*|INVALID_ARGUMENT: Applying SELECT to non-message type",
     "no such overload"),
    (r"[A-Z_]+: (.*)", r"\1"),
)  # fmt: skip


class CelError(ValueError):
    """The rule does not compile; the message is the compiler's."""


class CelFailure(Exception):
    """An expression that compiles ended in an error; the message is worded as Kubernetes' engine words it."""

    def __init__(self, text: str) -> None:
        self.over_budget = "budget exceeded" in text or "call cost exceeds limit" in text
        super().__init__(_OVER_BUDGET if self.over_budget else _as_on_a_cluster(text))


def _as_on_a_cluster(text: str) -> str:
    """The engine's text with the words of the one in kube-apiserver, which is written in Go."""
    text = text.replace(MATCHES, "matches")
    for pattern, words in _WORDS:
        if found := re.fullmatch(pattern, text, re.S):
            return found.expand(words)
    return text


@frozen(slots=True)
class Rule:
    """One compiled expression."""

    source: str
    program: Any
    uses_old: bool


def cel_module() -> Any:
    """The engine. Raises CelError naming the extra when it is not installed."""
    try:
        from cel_expr_python import cel
    except ModuleNotFoundError as error:
        raise CelError("CEL rules need the cel-expr-python package; install agentops-platform[local]") from error
    return cel


def new_environment(variables: Mapping[str, Any], functions: Sequence[Any] = ()) -> Any:
    """Where expressions over `variables` (name to type) are compiled: Kubernetes' functions, and `functions`."""
    cel = cel_module()
    from cel_expr_python.ext import ext_math, ext_optional, ext_strings

    from agentops.local.apiserver.schema.cel_functions import kubernetes_functions

    return cel.NewEnv(
        variables=dict(variables),
        extensions=[
            ext_strings.ExtStrings(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(),
            cel.CelExtension("kubernetes", [*kubernetes_functions(), *functions]),
        ],
    )


@cache
def _environment(self_type: str = "") -> Any:
    """Where rules are compiled. `self_type` as `_type_of` writes it; "" is any, which is what they are run with."""
    types = cel_module().Type
    value = getattr(types, self_type.lstrip("[") or "DYN")
    for _ in range(self_type.count("[")):
        value = types.List(value)
    return new_environment({"self": value, "oldSelf": value, _PRESENT: types.BOOL})


@cache
def _program(source: str, self_type: str = "") -> Any:
    return compile_in(_environment(self_type), source)


def compile_in(environment: Any, source: str) -> Any:
    """The program of an expression. Raises CelError."""
    bounded = re.sub(rf"({_STRINGS.pattern})|\bmatches(?=\s*\()", lambda m: m.group(1) or MATCHES, source, flags=re.S)
    try:
        return environment.compile(bounded)
    except RuntimeError as error:
        text = str(error).removesuffix(" [INVALID_ARGUMENT]").removeprefix("INVALID_ARGUMENT: ")
        raise CelError(text.replace(MATCHES, "matches")) from error


def _check_types(source: str, self_type: str) -> None:
    try:
        if self_type:
            _program(source, self_type)
    except CelError as error:
        # Kubernetes lets numbers of different types be compared; the library does when their types are not known.
        if "'(int, double)'" not in str(error):
            raise


def _type_of(schema: Schema) -> str:
    """The type rules see, if it is a scalar's or a list's of them: `INT`, `[STRING`. "" for everything else."""
    if schema.int_or_string or schema.preserve or schema.nullable:
        return ""
    if schema.type == "array" and schema.items is not None:
        inner = _type_of(schema.items)
        return f"[{inner}" if inner else ""
    if schema.type == "string":
        return {"date-time": "TIMESTAMP", "duration": "DURATION", "byte": "", "date": ""}.get(schema.format, "STRING")
    return {"integer": "INT", "boolean": "BOOL"}.get(schema.type, "")


@lru_cache(maxsize=4096)
def compile_rule(source: str, schema: Schema, *, message: bool = False, optional_old: bool = False) -> Rule:
    """A rule or message expression for a value of `schema`. Raises CelError."""
    whole = _with_optional_old(source) if optional_old else source
    _check_types(whole, _type_of(schema))
    program = _program(whole)
    wanted = "STRING" if message else "BOOL"
    if result_type(program) not in (wanted, "DYN"):
        raise CelError(f"must evaluate to {'a string' if message else 'a bool'}")
    bare = _STRINGS.sub('""', source)
    for match in _ACCESS.finditer(bare):
        if match.group(1) == "oldSelf" and optional_old:
            continue
        path = match.group(2).replace("?", "").lstrip(".").split(".")
        if match.group(3):
            path = path[:-1]
        _check_path(path, schema, escape)
    return Rule(source, program, re.search(r"\boldSelf\b", bare) is not None)


def result_type(program: Any) -> str:
    """`BOOL`, `STRING`, `DYN` …"""
    found = program.return_type()
    return str(found.name() if hasattr(found, "name") else found).upper()


def check_fields(source: str, variable: str, schema: Schema) -> None:
    """Raise CelError when the expression reads a field of `variable` that `schema` does not have."""
    accesses = re.compile(rf"(?<![\w.]){variable}((?:\.\??[A-Za-z_][A-Za-z0-9_]*)+)(\s*\()?")
    for match in accesses.finditer(_STRINGS.sub('""', source)):
        path = match.group(1).replace("?", "").lstrip(".").split(".")
        _check_path(path[:-1] if match.group(2) else path, schema, lambda name: name)


def run(program: Any, data: Mapping[str, Any]) -> Any:
    """What an expression comes to. Raises CelFailure."""
    try:
        result = program.eval(data=dict(data))
    except RuntimeError as error:  # the engine gives up, mostly on its budget of 10,000 steps of loops
        raise CelFailure(str(error)) from error
    if result.type().name() == "ERROR":
        raise CelFailure(str(result.plain_value()))
    return result.plain_value()


def _check_path(path: list[str], schema: Schema, written: Callable[[str], str]) -> None:
    """`written` makes of a property's name the one that expressions use."""
    node: Schema | None = schema
    for name in path:
        if node is None or node.type != "object" or node.is_map or node.preserve or node.embedded:
            return
        names = {written(key): key for key in node.properties}
        if not names:
            return
        if name not in names:
            if name in ("apiVersion", "kind", "metadata"):
                return
            raise CelError(f"undefined field '{name}'")
        node = node.child(names[name])


def escape(name: str) -> str:
    """A property name as rules write it."""
    if name in _RESERVED:
        return f"__{name}__"
    return (
        name.replace("__", "__underscores__").replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")
    )


def to_cel(value: Any, schema: Schema | None) -> Any:
    """A JSON value as rules see it: names escaped, times and durations as such, numbers as doubles."""
    if isinstance(value, dict):
        typed = schema is not None and not schema.is_map
        return {
            (escape(key) if typed else key): to_cel(item, schema.child(key) if schema is not None else None)
            for key, item in value.items()
        }
    if isinstance(value, list):
        items = schema.items if schema is not None else None
        return [to_cel(item, items) for item in value]
    if schema is not None:
        if schema.type == "number" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and schema.format in ("date-time", "duration"):
            return _time(value, schema.format)
    return value


def _time(text: str, form: str) -> Any:
    """A protobuf message, because the library takes no Python times inside a map; text that is no time stays."""
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    try:
        if form == "duration":
            nanos = round(parse_duration(text) * 1e9)
            sign = -1 if nanos < 0 else 1
            return Duration(seconds=sign * (abs(nanos) // 10**9), nanos=sign * (abs(nanos) % 10**9))
        moment = Timestamp()
        moment.FromJsonString(text)
    except ValueError:
        return text
    return moment


def evaluate(value: Any, schema: Schema, path: str, *, old: Any = MISSING) -> list[FieldError]:
    """Failures of all rules at and below `value`. `old` is the stored value where it correlates."""
    out: list[FieldError] = []
    _walk(value, schema, path, old, out)
    return out


def _walk(value: Any, schema: Schema, path: str, old: Any, out: list[FieldError]) -> None:
    if not schema.ruled:
        return
    if schema.rules:
        same = old is not MISSING and old == value
        seen: dict[str, Any] = {}
        for rule in schema.rules:
            _run(rule, value, schema, path, old, same, seen, out)
    if isinstance(value, dict):
        for key, item in value.items():
            child = schema.child(key)
            if child is not None and item is not None:
                before = old.get(key, MISSING) if isinstance(old, dict) else MISSING
                at = f"{path}[{key}]" if schema.is_map else f"{path}.{key}" if path else key
                _walk(item, child, at, before, out)
    elif isinstance(value, list) and schema.items is not None:
        from agentops.local.apiserver.schema.validation import _correlate

        before_of = _correlate(old, schema)
        for index, item in enumerate(value):
            _walk(item, schema.items, f"{path}[{index}]", before_of(item), out)


def _run(
    rule: Mapping[str, Any],
    value: Any,
    schema: Schema,
    path: str,
    old: Any,
    same: bool,
    seen: dict[str, Any],
    out: list[FieldError],
) -> None:
    """`seen` keeps what the rules of one node see, which is made when the first of them runs."""
    optional = bool(rule.get("optionalOldSelf"))
    try:
        compiled = compile_rule(rule["rule"], schema, optional_old=optional)
    except CelError as error:
        out.append(errors.invalid_value(path or errors.NO_FIELD, _NOTHING, f"rule compile error: {error}"))
        return
    if compiled.uses_old and not optional and old is MISSING:
        return
    if same and not compiled.uses_old:
        return
    if "self" not in seen:
        seen["self"] = to_cel(value, schema)
    data = {"self": seen["self"]}
    if compiled.uses_old:
        if "oldSelf" not in seen:
            seen["oldSelf"] = None if old is MISSING else to_cel(old, schema)
        data["oldSelf"] = seen["oldSelf"]
        data[_PRESENT] = old is not MISSING
    where = (path + (rule.get("fieldPath") or "")).removeprefix(".") or errors.NO_FIELD
    try:
        verdict = run(compiled.program, data)
        if not isinstance(verdict, bool):
            raise CelFailure("no such overload")
    except CelFailure as failure:
        out.append(errors.invalid_value(where, _shown(value), _failed(failure, rule)))
        return
    if verdict:
        return
    message = _message(rule, data, schema)
    reason = rule.get("reason") or errors.INVALID
    if reason in (errors.FORBIDDEN, errors.REQUIRED):
        out.append(FieldError(reason, where, message))
    elif reason == errors.DUPLICATE:
        out.append(FieldError(reason, where, "", _shown(value)))
    else:
        out.append(FieldError(errors.INVALID, where, message, _shown(value)))


_NOTHING = FieldError("FieldValueRequired", "").value


def _shown(value: Any) -> Any:
    """Objects and lists print no value (Kubernetes 1.36)."""
    return _NOTHING if isinstance(value, dict | list) else value


def _failed(failure: CelFailure, rule: Mapping[str, Any]) -> str:
    told = str(rule.get("message") or rule["rule"]).strip()
    if failure.over_budget:
        return f"'{failure}': no further validation rules will be run due to call cost exceeds limit for rule: {told}"
    if str(failure) == "no such overload":
        needed = "call arguments did not match a supported operator, function or macro signature"
        return f"'{failure}': {needed} for rule: {told}"
    return f"{failure} evaluating rule: {told}"


def _message(rule: Mapping[str, Any], data: dict[str, Any], schema: Schema) -> str:
    expression = rule.get("messageExpression")
    if expression:
        try:
            text = run(compile_rule(expression, schema, message=True).program, data)
        except (CelError, CelFailure):
            text = None
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    return str(rule.get("message") or f"failed rule: {rule['rule']}").strip()


def _with_optional_old(source: str) -> str:
    """With `optionalOldSelf`, oldSelf is an optional: CEL makes it itself, since Python has no such value."""
    value = f"({_PRESENT} ? optional.of(oldSelf) : optional.none())"
    return re.sub(rf"({_STRINGS.pattern})|\boldSelf\b", lambda m: m.group(1) or value, source, flags=re.S)
