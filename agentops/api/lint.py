"""Everything wrong with manifests, each problem with file, line and field.

`lint` takes texts and returns problems; reading files and printing is the command's. Objects of other
groups are passed over: kubectl knows them better. Objects see one another across files, so an
AgentRun is checked against its Agent when both are given.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from attrs import field, frozen

from agentops.api import kinds
from agentops.api.objects import CLASSES, DecodeError, decode
from agentops.api.schema import object_schema
from agentops.api.structural import structural_errors
from agentops.api.types import Agent, AgentRun, AgentTool, Channel, Provider
from agentops.api.validation import FieldError, validate, validate_agent_bindings
from agentops.api.validation.common import duplicate, invalid, required
from agentops.values.kinds import Kind
from agentops.values.names import is_dns1123_subdomain


@frozen(slots=True)
class Problem:
    """One thing wrong: where in which file (lines count from 1), in which object, and what to do."""

    file: str
    line: int
    subject: str
    """`Agent/hello`, or empty when the text is no object."""
    error: FieldError
    warning: bool = False

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}", "warning" if self.warning else "", self.subject, str(self.error)]
        return ": ".join(part for part in parts if part)


@frozen(slots=True)
class _Document:
    file: str
    body: Mapping[str, Any]
    lines: Mapping[str, int]
    repeated: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        metadata = self.body.get("metadata")
        name = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, Mapping) else ""
        return f"{self.body.get('kind') or '?'}/{name or '?'}"

    def line(self, path: str) -> int:
        """Where `path` stands, or the nearest thing around it."""
        while path and path not in self.lines:
            path = path.rpartition("[")[0] if path.endswith("]") else path.rpartition(".")[0]
        return self.lines.get(path, 1)

    def problem(self, error: FieldError, *, warning: bool = False) -> Problem:
        return Problem(self.file, self.line(error.path), self.subject, error, warning)


@frozen(slots=True)
class _Known:
    """The decoded objects of all files, by namespace and name."""

    agents: dict[tuple[str, str], Agent] = field(factory=dict)
    providers: dict[tuple[str, str], Provider] = field(factory=dict)
    tools: dict[tuple[str, str], AgentTool] = field(factory=dict)

    def add(self, value: Any) -> None:
        tables: dict[type, dict[tuple[str, str], Any]] = {
            Agent: self.agents,
            Provider: self.providers,
            AgentTool: self.tools,
        }
        if type(value) in tables:
            tables[type(value)][(value.metadata.namespace, value.metadata.name)] = value


def lint(texts: Iterable[tuple[str, str]]) -> list[Problem]:
    """The problems of `(file name, YAML text)` pairs, by file and line."""
    problems: list[Problem] = []
    checked: list[tuple[_Document, Any]] = []
    known = _Known()
    for name, text in texts:
        documents, broken = _documents(name, text)
        problems += broken
        for document in documents:
            kind = _kind_of(document)
            if isinstance(kind, FieldError):
                problems.append(document.problem(kind))
            if not isinstance(kind, Kind):
                continue
            problems += [document.problem(duplicate(path, path.rpartition(".")[2])) for path in document.repeated]
            errors = _shape(kind, document.body)
            problems += [document.problem(error) for error in errors]
            value, broken_at = _decode_most(CLASSES[kind], document.body)
            if broken_at is not None and not errors:
                problems.append(document.problem(invalid(broken_at.path, broken_at.problem)))
            if value is None:
                continue
            known.add(value)
            checked.append((document, value))
    for document, value in checked:
        problems += _rules(document, value, known, reported={str(p.error.path) for p in problems if _same(p, document)})
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.warning, problem.error.path))


def _decode_most(cls: type, body: Mapping[str, Any]) -> tuple[Any, DecodeError | None]:
    """The object without the optional fields that cannot be read, so that the rules still see the rest.

    None when what cannot be read is required; the error is the first that was met.
    """
    first: DecodeError | None = None
    rest = copy.deepcopy(dict(body))
    while True:
        try:
            return decode(cls, rest), first
        except DecodeError as error:
            first = first or error
            if not _drop(rest, error.path):
                return None, first


def _drop(body: Any, path: str) -> bool:
    """Remove the map entry at `path`; False when there is none."""
    *steps, last = re.findall(r"[^.\[\]]+|\[\d+\]", path) or [""]
    for step in steps:
        try:
            body = body[int(step[1:-1])] if step.startswith("[") else body[step]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(body, dict) and body.pop(last, None) is not None


def _same(problem: Problem, document: _Document) -> bool:
    return problem.file == document.file and problem.subject == document.subject


def _rules(document: _Document, value: Any, known: _Known, reported: set[str]) -> Iterator[Problem]:
    """Findings of the rules, without those whose field the schema has already spoken about."""
    namespace = value.metadata.namespace
    agent = None
    if isinstance(value, AgentRun | Channel):
        agent = known.agents.get((namespace, value.spec.agent_ref))
    findings = validate(value, agent=agent)
    errors = list(findings.errors)
    if isinstance(value, Agent):
        errors += validate_agent_bindings(
            value,
            {name: provider for (where, name), provider in known.providers.items() if where == namespace},
            {name: tool for (where, name), tool in known.tools.items() if where == namespace},
        )
    for error in errors:
        if error.path not in reported:
            yield document.problem(error)
    for warning in findings.warnings:
        yield document.problem(warning, warning=True)


def _shape(kind: Kind, body: Mapping[str, Any]) -> list[FieldError]:
    schema = object_schema(CLASSES[kind])
    schema["properties"]["metadata"] = {}
    errors = structural_errors(schema, body)
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping):
        return [*errors, required("metadata.name", "is required")]
    name = metadata.get("name")
    if not name and not metadata.get("generateName"):
        errors.append(required("metadata.name", "is required"))
    elif name and not (isinstance(name, str) and is_dns1123_subdomain(name)):
        errors.append(invalid("metadata.name", f"{name!r} is not an object's name: use a-z, 0-9, - and ."))
    return errors


def _kind_of(document: _Document) -> Kind | FieldError | None:
    """The kind, what is wrong with it, or None for an object that is not ours."""
    version = document.body.get("apiVersion")
    if not isinstance(version, str) or not isinstance(document.body.get("kind"), str):
        missing = "apiVersion" if not isinstance(version, str) else "kind"
        return required(missing, "is required; is this a Kubernetes object?")
    group, _, _ = version.rpartition("/")
    if group != kinds.GROUP:
        return None
    if version != kinds.API_VERSION:
        return invalid("apiVersion", f"{version!r} is not served; write {kinds.API_VERSION}")
    try:
        return kinds.kind_named(document.body["kind"])
    except KeyError as error:
        return invalid("kind", str(error.args[0]))


def _documents(name: str, text: str) -> tuple[list[_Document], list[Problem]]:
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join(part for part in (error.context, error.problem) if part)
        return [], [Problem(name, line, "", invalid("", f"not YAML: {problem}"))]
    except yaml.YAMLError as error:
        return [], [Problem(name, 1, "", invalid("", f"not YAML: {error}"))]
    documents, problems = [], []
    for node in nodes:
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
            continue
        for item in _unlist(node):
            lines: dict[str, int] = {"": item.start_mark.line + 1}
            repeated: list[str] = []
            _index(item, "", lines, repeated)
            try:
                body = yaml.SafeLoader("").construct_document(item)
            except yaml.YAMLError as error:
                problems.append(Problem(name, lines[""], "", invalid("", f"not YAML: {error}")))
                continue
            if isinstance(body, dict):
                documents.append(_Document(name, body, lines, tuple(repeated)))
            else:
                problems.append(Problem(name, lines[""], "", invalid("", "expected an object")))
    return documents, problems


def _unlist(node: yaml.Node) -> Iterator[yaml.Node]:
    """The objects of a `kind: List`, or the node itself."""
    if isinstance(node, yaml.MappingNode):
        entries = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        kind, items = entries.get("kind"), entries.get("items")
        if isinstance(kind, yaml.ScalarNode) and kind.value == "List" and isinstance(items, yaml.SequenceNode):
            yield from items.value
            return
    yield node


def _index(node: yaml.Node, path: str, lines: dict[str, int], repeated: list[str]) -> None:
    """Note on which line every path begins, and which keys stand twice."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            at = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen:
                repeated.append(at)
            seen.add(key.value)
            lines[at] = key.start_mark.line + 1
            _index(value, at, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            lines[at] = item.start_mark.line + 1
            _index(item, at, lines, repeated)
