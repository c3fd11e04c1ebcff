"""What a rule reports, and checks that several kinds share. Pure functions over decoded values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

from attrs import frozen

from agentops.api.types.shared import GoogleDefaults, ProviderCallDefaults, SecretEnvVar
from agentops.values.names import is_dns1123_subdomain, is_env_name, is_qualified_name
from agentops.values.quantity import parse_quantity


class ErrorType(StrEnum):
    """How Kubernetes names what is wrong with a field (`status.details.causes[].reason`)."""

    REQUIRED = "FieldValueRequired"
    INVALID = "FieldValueInvalid"
    FORBIDDEN = "FieldValueForbidden"
    DUPLICATE = "FieldValueDuplicate"
    NOT_SUPPORTED = "FieldValueNotSupported"


@frozen(slots=True)
class FieldError:
    """One thing wrong with one field: where (`spec.tools[1].name`), what kind, and what to do."""

    path: str
    type: ErrorType
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


@frozen(slots=True)
class Findings:
    """What validation has to say: errors refuse the object, warnings are told to the user."""

    errors: tuple[FieldError, ...] = ()
    warnings: tuple[FieldError, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.errors


def required(path: str, message: str) -> FieldError:
    return FieldError(path, ErrorType.REQUIRED, message)


def invalid(path: str, message: str) -> FieldError:
    return FieldError(path, ErrorType.INVALID, message)


def forbidden(path: str, message: str) -> FieldError:
    return FieldError(path, ErrorType.FORBIDDEN, message)


def duplicate(path: str, value: str) -> FieldError:
    return FieldError(path, ErrorType.DUPLICATE, f"{value!r} stands here already; remove one of the two")


def one_of(path: str, value: str, allowed: Sequence[str]) -> list[FieldError]:
    """NOT_SUPPORTED unless `value` is one of `allowed`."""
    if value in allowed:
        return []
    return [FieldError(path, ErrorType.NOT_SUPPORTED, f"{value!r} is not one of {', '.join(allowed)}")]


def unique(path: str, values: Iterable[str], field: str = "") -> list[FieldError]:
    """DUPLICATE for every value that stood before; `field` is the part of the item at fault."""
    errors = []
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            errors.append(duplicate(f"{path}[{index}]{'.' + field if field else ''}", value))
        seen.add(value)
    return errors


def http_url(path: str, url: str) -> list[FieldError]:
    """INVALID unless `url` is an absolute http or https URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in url
        _ = parts.port
    except ValueError:
        good = False
    if good:
        return []
    return [invalid(path, f"{url!r} is not an http or https URL; write it whole, such as https://host/path")]


def quantity(path: str, text: str, *, positive: bool = False) -> list[FieldError]:
    """INVALID unless `text` is a Kubernetes quantity that is not negative, or not above zero with `positive`."""
    try:
        amount = parse_quantity(text)
    except ValueError as error:
        return [invalid(path, str(error))]
    if amount < 0 or (positive and amount == 0):
        return [invalid(path, f"{text!r} is not {'more than zero' if positive else 'zero or more'}")]
    return []


def resources(path: str, requests: Mapping[str, str], limits: Mapping[str, str]) -> list[FieldError]:
    """Names that Kubernetes takes, amounts that are quantities and leave something, no request above its limit."""
    errors: list[FieldError] = []
    for block, amounts in (("requests", requests), ("limits", limits)):
        for name, amount in sorted(amounts.items()):
            if not is_qualified_name(name):
                message = f"{name!r} is not the name of a resource, such as cpu, memory or example.com/gpu"
                errors.append(invalid(f"{path}.{block}.{name}", message))
            errors += quantity(f"{path}.{block}.{name}", amount, positive=block == "limits" and name in _NEEDED)
    if not errors:
        errors += [
            invalid(f"{path}.requests.{name}", f"{amount} is more than the limit {limits[name]}")
            for name, amount in sorted(requests.items())
            if name in limits and parse_quantity(amount) > parse_quantity(limits[name])
        ]
    return errors


_NEEDED = frozenset({"cpu", "memory", "ephemeral-storage"})
"""What no container can do without."""


def env(path: str, variables: Mapping[str, str]) -> list[FieldError]:
    """Names that Kubernetes accepts for environment variables, and values that an environment can hold."""
    errors = [
        invalid(f"{path}.{name}", f"{name!r} is not a name for an environment variable")
        for name in sorted(variables)
        if not is_env_name(name)
    ]
    for name, value in sorted(variables.items()):
        errors += no_nul(f"{path}.{name}", value)
    return errors


def no_nul(path: str, text: str) -> list[FieldError]:
    """INVALID for a NUL, at which the environment and the arguments of a process end."""
    if "\0" not in text:
        return []
    return [
        invalid(path, f"has a NUL character at position {text.index(chr(0))}, which no process can take; remove it")
    ]


def image(path: str, text: str) -> list[FieldError]:
    """INVALID unless `text` can be the name of an image: the container runtime says so much later."""
    if _IMAGE.fullmatch(text):
        return []
    return [invalid(path, f"{text!r} is not the name of an image; write it like registry.example.com/agent:1.0")]


_IMAGE = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:/@+\[\]-]*")


def annotation_keys(path: str, found: Mapping[str, str]) -> list[FieldError]:
    """Keys that Kubernetes accepts for annotations, and no more in all than an object may have."""
    errors = [
        invalid(f"{path}.{key}", f"{key!r} is not the key of an annotation; write it like example.com/team")
        for key in sorted(found)
        if not is_qualified_name(key.lower())
    ]
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > _ANNOTATIONS_MAX_BYTES:
        errors.append(invalid(path, f"keys and values have more than {_ANNOTATIONS_MAX_BYTES} bytes"))
    return errors


_ANNOTATIONS_MAX_BYTES = 256 * 1024


def secret_env(path: str, variables: Sequence[SecretEnvVar], plain: Mapping[str, str]) -> list[FieldError]:
    """Valid names, each once, and none that `plain` sets too."""
    errors = unique(path, (variable.name for variable in variables), "name")
    for index, variable in enumerate(variables):
        at = f"{path}[{index}]"
        if not is_env_name(variable.name):
            errors.append(invalid(f"{at}.name", f"{variable.name!r} is not a name for an environment variable"))
        if variable.name in plain:
            errors.append(invalid(f"{at}.name", f"{variable.name!r} is set in env too; remove one of the two"))
        errors += secret_ref(f"{at}.secretRef", variable.secret_ref.name, variable.secret_ref.key)
    return errors


def secret_ref(path: str, name: str, key: str) -> list[FieldError]:
    """A name a Secret or ConfigMap can have, and a key."""
    errors = []
    if not name:
        errors.append(required(f"{path}.name", "write the object's name"))
    elif not is_dns1123_subdomain(name):
        errors.append(invalid(f"{path}.name", f"{name!r} is not an object's name: use a-z, 0-9, - and ."))
    if not key:
        errors.append(required(f"{path}.key", "write the key in the object's data"))
    return errors


def call_defaults(path: str, defaults: ProviderCallDefaults, provider_type: str | None) -> list[FieldError]:
    """P9 and P10: only the block of the provider's type, and one way to bound Google's thinking.

    With `provider_type` None only the second is checked.
    """
    errors = []
    if provider_type is not None:
        blocks = (
            ("anthropic", defaults.anthropic, ("anthropic", "bedrock")),
            ("openai", defaults.openai, ("openai", "azure", "openaicompat", "openrouter")),
            ("google", defaults.google, ("google",)),
        )
        errors += [
            forbidden(f"{path}.{name}", f"type {provider_type} has no {name} settings; they are for {', '.join(types)}")
            for name, block, types in blocks
            if block is not None and provider_type not in types
        ]
    if defaults.google is not None:
        errors += _thinking(f"{path}.google", defaults.google)
    return errors


def _thinking(path: str, google: GoogleDefaults) -> list[FieldError]:
    if google.thinking_level is None or google.thinking_budget_tokens is None:
        return []
    return [forbidden(f"{path}.thinkingBudgetTokens", "thinkingLevel is set; use one of the two")]
