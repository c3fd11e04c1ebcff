"""The strategy every kind starts from.

A strategy is stateless. It may change the object it is handed and returns field errors; it never
writes. What it needs to look up comes through `Context`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.http import User
from agentops.values.clock import Clock
from agentops.values.names import is_dns1035_label, is_dns1123_label, is_dns1123_subdomain

if TYPE_CHECKING:
    from agentops.local.apiserver.resources import Resource
    from agentops.local.apiserver.store import Store

Object = dict[str, Any]

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_DNS1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and "
    "end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)


@frozen(slots=True)
class Context:
    """What a strategy may use."""

    resource: Resource
    store: Store
    clock: Clock
    rng: random.Random
    user: User
    now: str
    dry_run: bool = False
    service_cidr: str = "127.96.0.0/16"
    require_service_account: bool = True
    subresource: str = ""


def subdomain_name(name: str) -> str | None:
    if is_dns1123_subdomain(name):
        return None
    return _SUBDOMAIN_TEXT if len(name) <= 253 else "must be no more than 253 bytes"


def label_name(name: str) -> str | None:
    if is_dns1123_label(name):
        return None
    return _LABEL_TEXT if len(name) <= 63 else "must be no more than 63 bytes"


def dns1035_name(name: str) -> str | None:
    if is_dns1035_label(name):
        return None
    return _DNS1035_TEXT if len(name) <= 63 else "must be no more than 63 bytes"


def path_segment_name(name: str) -> str | None:
    if name in (".", ".."):
        return f"may not be '{name}'"
    for bad in ("/", "%"):
        if bad in name:
            return f"may not contain '{bad}'"
    return None


class Strategy:
    """Defaults: a ConfigMap-like kind without status, generation or rules of its own."""

    has_generation: ClassVar[bool] = False
    has_status: bool = False
    unconditional_update: ClassVar[bool] = True
    delete_returns_object: ClassVar[bool] = False
    create_on_update: ClassVar[bool] = False
    check_name: Callable[[str], str | None] = staticmethod(subdomain_name)
    default_propagation: ClassVar[str] = "Background"
    fields: ClassVar[dict[str, str]] = {}
    """Field selectors beyond metadata.name and metadata.namespace: selector to object path."""

    def default(self, obj: Object) -> None:
        """Fill in what the API fills in, on every write."""

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        """Set what the server decides, before validation."""

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        """Keep what a client may not write."""

    def prepare_status(self, ctx: Context, new: Object, old: Object) -> None:
        """The same for writes to /status."""

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        """On create and update."""
        return []

    def validate_create(self, ctx: Context, obj: Object) -> list[FieldError]:
        """What only a new object has to be, before the rest."""
        return []

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        """Immutability."""
        return []

    def admit(self, ctx: Context, obj: Object) -> None:
        """Policy on create, asked last, of a valid object. Raises ApiFailure 403."""

    def admit_update(self, ctx: Context, new: Object, old: Object) -> None:
        """The same on update."""

    def warnings(self, obj: Object) -> list[str]:
        return []

    def field_value(self, obj: Object, selector: str) -> str | None:
        """The value a field selector compares with; None when the kind does not know the selector."""
        path = self.fields.get(selector)
        return None if path is None else text_at(obj, path)


def text_at(obj: Object, path: str) -> str:
    """The value at a dotted path as field selectors see it: absent is empty, booleans are words."""
    value: Any = obj
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def immutable(new: Object, old: Object, path: str, detail: str = "field is immutable") -> list[FieldError]:
    """One error when the value at `path` differs."""
    left, right = _at(new, path), _at(old, path)
    return [] if left == right else [errors.invalid_value(path, left, detail)]


def not_negative(holder: Object, at: str, names: Iterable[str]) -> Iterator[FieldError]:
    """Of figures that may be absent."""
    for name in names:
        value = holder.get(name)
        if value is not None and value < 0:
            yield errors.invalid_value(f"{at}.{name}", value, "must be greater than or equal to 0")


def _at(obj: Any, path: str) -> Any:
    for key in path.split("."):
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj
