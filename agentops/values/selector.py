"""Label and field selectors, as the API's query parameters and `LabelSelector` objects write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|>|<|[^\s=!,()<>]+)")
_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


class SelectorError(ValueError):
    """The selector text does not parse; the message is what an API server answers."""


@frozen(slots=True)
class Requirement:
    """One term. `op` is one of in, notin, exists, !, >, <; equality is `in` with one value."""

    key: str
    op: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.op == "exists":
            return self.key in labels
        if self.op == "!":
            return self.key not in labels
        value = labels.get(self.key)
        if self.op == "notin":
            return value is None or value not in self.values
        if value is None:
            return False
        if self.op == "in":
            return value in self.values
        try:
            left, right = int(value), int(self.values[0])
        except ValueError:
            return False
        return left > right if self.op == ">" else left < right

    def __str__(self) -> str:
        if self.op == "exists":
            return self.key
        if self.op == "!":
            return f"!{self.key}"
        if self.op in (">", "<"):
            return f"{self.key}{self.op}{self.values[0]}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.op == 'in' else '!='}{self.values[0]}"
        return f"{self.key} {self.op} ({','.join(self.values)})"


@frozen(slots=True)
class LabelSelector:
    """A conjunction of requirements. No requirement matches everything."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """From `labelSelector=`. Raises SelectorError with the API server's wording."""
        return cls(tuple(_Parser(text).parse()))

    @classmethod
    def from_dict(cls, selector: Mapping[str, Any] | None) -> LabelSelector:
        """From a `LabelSelector` object (`matchLabels`, `matchExpressions`)."""
        selector = selector or {}
        terms = [Requirement(k, "in", (v,)) for k, v in sorted((selector.get("matchLabels") or {}).items())]
        for expression in selector.get("matchExpressions") or []:
            op = _OPERATORS.get(expression.get("operator", ""))
            if op is None:
                raise SelectorError(f"{expression.get('operator')!r} is not a valid label selector operator")
            terms.append(Requirement(expression["key"], op, tuple(expression.get("values") or ())))
        return cls(tuple(terms))

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> LabelSelector:
        """Equality on every label."""
        return cls(tuple(Requirement(k, "in", (v,)) for k, v in sorted(labels.items())))

    @property
    def empty(self) -> bool:
        return not self.requirements

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return all(term.matches(labels or {}) for term in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.requirements)


@frozen(slots=True)
class FieldSelector:
    """A conjunction of equality terms on field paths: `(path, op, value)` with op `=` or `!=`."""

    terms: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> FieldSelector:
        """From `fieldSelector=`. Raises SelectorError."""
        terms = []
        for part in (p.strip() for p in re.split(r"(?<!\\),", text) if p.strip()):
            match = re.fullmatch(r"([^=!]+?)(==|!=|=)(.*)", part)
            if match is None:
                raise SelectorError(f"invalid selector: '{part}'; can't understand '{part}'")
            path, op, value = match.groups()
            value = re.sub(r"\\([\\,=])", r"\1", value)
            terms.append((path.strip(), "!=" if op == "!=" else "=", value))
        return cls(tuple(terms))

    @property
    def empty(self) -> bool:
        return not self.terms

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Against a flat map of path to value; an absent path counts as the empty string."""
        return all((fields.get(path, "") == value) == (op == "=") for path, op, value in self.terms)

    def __str__(self) -> str:
        return ",".join(f"{path}{op}{_escape(value)}" for path, op, value in self.terms)


def _escape(value: str) -> str:
    return re.sub(r"([\\,=])", r"\\\1", value)


class _Parser:
    """The grammar of the `labelSelector` query parameter."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None:
                raise SelectorError(f"unable to parse requirement: found '{stripped[position:]}'")
            self._tokens.append(match.group(1))
            position = match.end()
        self._at = 0

    def parse(self) -> list[Requirement]:
        terms: list[Requirement] = []
        while self._peek() is not None:
            terms.append(self._term())
            token = self._next()
            if token is None:
                break
            if token != ",":
                raise SelectorError(f"unable to parse requirement: found '{token}', expected: ',' or 'end of string'")
            if self._peek() is None:
                raise SelectorError("unable to parse requirement: found '', expected: identifier after ','")
        return terms

    def _term(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return Requirement(self._identifier(), "!")
        key = self._identifier()
        op = self._peek()
        if op is None or op == ",":
            return Requirement(key, "exists")
        self._next()
        if op in ("=", "==", "!="):
            value = "" if self._peek() in (None, ",") else self._identifier()
            return Requirement(key, "notin" if op == "!=" else "in", (value,))
        if op in (">", "<"):
            value = self._identifier()
            if not re.fullmatch(r"-?\d+", value):
                raise SelectorError(f"for '{op}' operators, the value must be an integer, got {value!r}")
            return Requirement(key, op, (value,))
        if op in ("in", "notin"):
            return Requirement(key, op, self._values())
        raise SelectorError(f"unable to parse requirement: found '{op}', expected: in, notin, =, ==, !=, >, <")

    def _values(self) -> tuple[str, ...]:
        if self._next() != "(":
            raise SelectorError("unable to parse requirement: found no '(' after in or notin")
        values: list[str] = []
        while True:
            token = self._next()
            if token == ")":
                return tuple(sorted(set(values))) or ("",)
            if token is None:
                raise SelectorError("unable to parse requirement: found '', expected: ',' or ')'")
            if token != ",":
                values.append(token)

    def _identifier(self) -> str:
        token = self._next()
        if token is None or token in ("=", "==", "!=", ",", "(", ")", "!", ">", "<"):
            raise SelectorError(f"unable to parse requirement: found '{token or ''}', expected: identifier")
        return token

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str | None:
        token = self._peek()
        self._at += 1
        return token
