"""GET and LIST: resource versions, selectors, pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import orjson
from attrs import frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request
from agentops.local.apiserver.render import Renderer
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.store import Compacted, Entry, Store
from agentops.local.apiserver.strategies.base import text_at
from agentops.local.apiserver.writes import Writer
from agentops.values.selector import FieldSelector, LabelSelector, SelectorError

Object = dict[str, Any]


@frozen(slots=True)
class Selection:
    """Label and field selectors of one request, checked against the resource."""

    resource: Resource
    labels: LabelSelector = LabelSelector()
    fields: FieldSelector = FieldSelector()

    @classmethod
    def of(cls, request: Request, resource: Resource) -> Selection:
        """Raises ApiFailure 400 for a selector that does not parse or a field nobody selects by."""
        try:
            labels = LabelSelector.parse(request.arg("labelSelector"))
            fields = FieldSelector.parse(request.arg("fieldSelector"))
        except SelectorError as error:
            raise errors.bad_request(str(error)) from error
        selection = cls(resource, labels, fields)
        for path, _, _ in fields.terms:
            if selection._value({}, path) is None:
                raise errors.bad_request(_unknown_field(resource, path))
        return selection

    @property
    def empty(self) -> bool:
        return self.labels.empty and self.fields.empty

    @property
    def name(self) -> str | None:
        """The only name that can match, when metadata.name is selected."""
        return next((v for path, op, v in self.fields.terms if path == "metadata.name" and op == "="), None)

    def matches(self, entry: Entry) -> bool:
        if not self.labels.empty and not self.labels.matches(entry.labels):
            return False
        if self.fields.empty:
            return True
        obj: Object | None = None
        for path, op, wanted in self.fields.terms:
            if path == "metadata.name":
                value = entry.name
            elif path == "metadata.namespace":
                value = entry.namespace
            else:
                obj = obj if obj is not None else entry.obj()
                value = self._value(obj, path) or ""
            if (value == wanted) != (op == "="):
                return False
        return True

    def _value(self, obj: Object, path: str) -> str | None:
        if path in ("metadata.name", "metadata.namespace"):
            return ""
        if self.resource.custom:
            return text_at(obj, path) if path in self.resource.selectable else None
        return self.resource.strategy.field_value(obj, path)


def _unknown_field(resource: Resource, path: str) -> str:
    if resource.custom or resource.strategy.fields:
        return f"field label not supported: {path}"
    return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def parse_revision(text: str) -> int:
    """The resourceVersion parameter; "" and "0" are 0. Raises ValueError with the server's words."""
    if text in ("", "0"):
        return 0
    problem = _unsigned_problem(text)
    if problem:
        raise ValueError(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": {problem}')
    return int(text)


def _unsigned_problem(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        return "invalid syntax"
    return "value out of range" if len(text) > 20 or int(text) >= 1 << 64 else ""


def integer(request: Request, name: str) -> int:
    """A query parameter as Go reads an int64; 0 when it is not there. Raises ApiFailure 400."""
    text = request.arg(name)
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not text:
        return 0
    problem = _unsigned_problem(digits)
    if not problem and not -(1 << 63) <= int(text) < 1 << 63:
        problem = "value out of range"
    if problem:
        raise errors.bad_request(f'{name}: strconv.ParseInt: parsing "{text}": {problem}')
    return int(text)


def check_not_future(store: Store, revision: int) -> None:
    if revision > store.revision:
        raise errors.resource_version_too_large(revision, store.revision)


def list_options_invalid(detail: str, field: str = "resourceVersionMatch") -> errors.ApiFailure:
    found = [errors.forbidden_field(field, detail)]
    return errors.invalid("meta.k8s.io", "ListOptions", "", found)


class Reader:
    """Reads for one resource version of the world."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer

    def as_stored(self, resource: Resource, entry: Entry) -> bool:
        """Whether the stored bytes are what `resource` serves."""
        return not resource.translated and (resource.default_since is None or entry.revision >= resource.default_since)

    def served_bytes(self, resource: Resource, entry: Entry) -> bytes:
        """An entry as plain JSON of `resource`, without decoding when nothing needs to change."""
        if self.as_stored(resource, entry):
            return entry.value
        return orjson.dumps(self._writer.served(resource, entry))

    def get(self, resource: Resource, namespace: str, name: str) -> Entry:
        entry = self._store.get(resource.storage, namespace, name)
        if entry is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return entry

    def list(self, request: Request, resource: Resource, namespace: str, name: str, renderer: Renderer) -> bytes:
        """The body of a LIST answer."""
        selection = Selection.of(request, resource)
        limit = max(0, integer(request, "limit"))
        token = request.arg("continue")
        text = request.arg("resourceVersion")
        match = request.arg("resourceVersionMatch")
        if match and match not in ("Exact", "NotOlderThan"):
            found = [errors.not_supported("resourceVersionMatch", match, ("Exact", "NotOlderThan", ""))]
            raise errors.invalid("meta.k8s.io", "ListOptions", "", found)
        if request.arg("sendInitialEvents"):
            raise list_options_invalid("sendInitialEvents is forbidden for list", "sendInitialEvents")
        if token:
            if match:
                raise list_options_invalid("resourceVersionMatch is forbidden when continue is provided")
            if text not in ("", "0"):
                raise errors.bad_request("specifying resource version is not allowed when using continue")
        elif match and not text:
            raise list_options_invalid("resourceVersionMatch is forbidden unless resourceVersion is provided")
        elif match == "Exact" and text == "0":
            raise list_options_invalid('resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
        try:
            revision = parse_revision(text)
        except ValueError as error:
            raise errors.bad_request(f"invalid resource version: {error}") from error
        check_not_future(self._store, revision)
        after: tuple[str, str] | None = None
        at = self._store.revision
        left: int | None = None
        if token:
            at, after, left = _decode_continue(token, self._store.revision)
            exact = at != self._store.revision
        else:
            # limit with an explicit version reads that version, as a paging client expects.
            exact = match == "Exact" or (bool(limit) and revision > 0 and match != "NotOlderThan")
            at = revision if exact else at
        entries: Iterable[Entry]
        try:
            entries = (
                self._store.list_at(resource.storage, namespace, at, after or ("", ""))
                if exact
                else self._live(resource, namespace, name or selection.name, after)
            )
        except Compacted as error:
            raise self._expired(token, at, after) from error
        if name:
            entries = (e for e in entries if e.name == name)
        chosen: list[Entry] = []
        more = False
        for entry in entries:
            if selection.empty or selection.matches(entry):
                if limit and len(chosen) == limit:
                    more = True
                    break
                chosen.append(entry)
        meta: Object = {"resourceVersion": str(at)}
        if more:
            last = chosen[-1]
            if not selection.empty or name:
                left = None
            elif not token:
                rest = self._store.list_at(resource.storage, namespace, at, (last.namespace, last.name))
                left = sum(1 for _ in rest)
            elif left is not None:
                left -= len(chosen)
            meta["continue"] = _token(at, (last.namespace, last.name), left)
            if left is not None:
                meta["remainingItemCount"] = left
        if renderer.form.plain:
            return renderer.list_bytes((self.served_bytes(resource, e) for e in chosen), meta)
        return renderer.list((self._writer.served(resource, e) for e in chosen), meta)

    def _live(
        self, resource: Resource, namespace: str, name: str | None, after: tuple[str, str] | None
    ) -> Iterable[Entry]:
        if name and (namespace or not resource.kind.namespaced):
            entry = self._store.get(resource.storage, namespace, name)
            return [entry] if entry is not None else []
        return self._store.list(resource.storage, namespace, after)

    def _expired(self, token: str, at: int, after: tuple[str, str] | None) -> errors.ApiFailure:
        if not token:
            return errors.gone(f"The resourceVersion for the provided list is too old: {at}")
        failure = errors.gone(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the "
            "remainder of the "
            "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
            "modified, or deleted between the time the first chunk was returned and now may show up in the list."
        )
        failure.continue_token = _token(-1, after or ("", ""))
        return failure


def _token(revision: int, after: tuple[str, str], left: int | None = None) -> str:
    """`left` is what remains after this page, so that the next need not count again."""
    start = "/".join(part for part in after if part) + "\0"
    body = {"v": "meta.k8s.io/v1", "rv": revision, "start": start, "k": list(after), "left": left}
    return base64.urlsafe_b64encode(orjson.dumps(body)).decode().rstrip("=")


def _decode_continue(token: str, current: int) -> tuple[int, tuple[str, str], int | None]:
    try:
        body = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = body["k"]
        revision = int(body["rv"])
        left = body.get("left")
        left = None if left is None else int(left)
        if revision > current:
            raise ValueError(f"revision {revision} is in the future")
    except (ValueError, KeyError, TypeError, OverflowError, binascii.Error) as error:
        raise errors.bad_request(f"continue key is not valid: invalid continue token: {error}") from error
    return (current if revision < 0 else revision), (str(namespace), str(name)), left
