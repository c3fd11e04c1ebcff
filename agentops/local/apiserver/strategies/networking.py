"""NetworkPolicies and Ingresses: defaults and checks. This plane enforces neither; a cluster would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.addresses import (
    parse_address,
    parse_network,
    validate_network,
    validate_port,
    validate_port_name,
    validate_port_number,
)
from agentops.local.apiserver.strategies.base import Context, Strategy, label_name, path_segment_name, subdomain_name

Object = dict[str, Any]

_TYPES = ("Ingress", "Egress")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_NOT_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_NOT_AT_THE_END = ("/..", "/.")
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_WILDCARD = re.compile(r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WILDCARD_TEXT = (
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
    f"regex used for validation is '{_WILDCARD.pattern}')"
)


def validate_network_policy(spec: Object) -> Iterator[FieldError]:
    """Ports, peers and types; selectors are checked where they always were."""
    for rules, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(rules) or ()):
            at = f"spec.{rules}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(port, f"{at}.ports[{number}]")
            for number, peer in enumerate(rule.get(peers) or ()):
                yield from _peer(peer, f"{at}.{peers}[{number}]")
    types = spec.get("policyTypes") or ()
    if len(types) > len(_TYPES):
        yield errors.invalid_value("spec.policyTypes", types, "may not specify more than two policyTypes")
        return
    for index, kind in enumerate(types):
        if kind not in _TYPES:
            yield errors.not_supported(f"spec.policyTypes[{index}]", kind, _TYPES)


def _policy_port(port: Object, at: str) -> Iterator[FieldError]:
    protocol, first, last = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol is not None and protocol not in _PROTOCOLS:
        yield errors.not_supported(f"{at}.protocol", protocol, _PROTOCOLS)
    if first is None:
        if last is not None:
            yield errors.invalid_value(f"{at}.endPort", last, "may not be specified when `port` is not specified")
        return
    yield from validate_port(first, f"{at}.port")
    if last is None:
        return
    if isinstance(first, str):
        yield errors.invalid_value(f"{at}.endPort", last, "may not be specified when `port` is non-numeric")
        return
    if last < first:
        yield errors.invalid_value(f"{at}.endPort", last, "must be greater than or equal to `port`")
    yield from validate_port_number(last, f"{at}.endPort")


def _peer(peer: Object, at: str) -> Iterator[FieldError]:
    given = [name for name in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(name) is not None]
    if "ipBlock" in given:
        yield from _block(peer["ipBlock"], f"{at}.ipBlock")
    if not given:
        yield errors.required(at, "must specify a peer")
    elif len(given) > 1 and "ipBlock" in given:
        yield errors.forbidden_field(at, "may not specify both ipBlock and another peer")


def _block(block: Object, at: str) -> Iterator[FieldError]:
    text = block.get("cidr") or ""
    if not text:
        yield errors.required(f"{at}.cidr")
        return
    yield from validate_network(text, f"{at}.cidr")
    whole = parse_network(text)
    for index, part in enumerate(block.get("except") or () if whole else ()):
        where, inner = f"{at}.except[{index}]", parse_network(part)
        yield from validate_network(part, where)
        if whole is None or inner is None:
            continue
        inside = inner.version == whole.version and inner.network_address in whole
        if not inside or whole.prefixlen >= inner.prefixlen:
            yield errors.invalid_value(where, part, "must be a strict subset of `cidr`")


class IngressStrategy(Strategy):
    has_generation = True
    has_status = True

    def validate_create(self, ctx: Context, obj: Object) -> list[FieldError]:
        told, chosen = (obj["metadata"].get("annotations") or {}).get(_CLASS_ANNOTATION), _spec(obj)
        if told is not None and chosen.get("ingressClassName") not in (None, told):
            detail = "must match `ingressClassName` when both are specified"
            return [errors.invalid_value(f"annotations.{_CLASS_ANNOTATION}", told, detail)]
        return []

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(_ingress(_spec(obj)))


def _spec(obj: Object) -> Object:
    spec: Object = obj.get("spec") or {}
    return spec


def _ingress(spec: Object) -> Iterator[FieldError]:
    rules, backend = spec.get("rules") or (), spec.get("defaultBackend")
    if not rules and backend is None:
        yield errors.invalid_value("spec", None, "either `defaultBackend` or `rules` must be specified")
    if backend is not None:
        yield from _backend(backend, "spec.defaultBackend")
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        if rule.get("host"):
            if parse_address(rule["host"]) is not None:
                yield errors.invalid_value(f"{at}.host", rule["host"], "must be a DNS name, not an IP address")
            yield from _host(rule["host"], f"{at}.host")
        if rule.get("http") is not None:
            paths = rule["http"].get("paths") or ()
            if not paths:
                yield errors.required(f"{at}.http.paths")
            for number, path in enumerate(paths):
                yield from _path(path, f"{at}.http.paths[{number}]")
    for index, entry in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(entry.get("hosts") or ()):
            yield from _host(host, f"spec.tls[{index}].hosts[{number}]")
        yield from _name(entry.get("secretName"), f"spec.tls[{index}].secretName")
    yield from _name(spec.get("ingressClassName"), "spec.ingressClassName")


def _name(name: str | None, at: str) -> Iterator[FieldError]:
    if name and (problem := subdomain_name(name)):
        yield errors.invalid_value(at, name, problem)


def _host(host: str, at: str) -> Iterator[FieldError]:
    if "*" not in host:
        yield from _name(host, at)
    elif not _WILDCARD.fullmatch(host) or len(host) > 253:
        yield errors.invalid_value(at, host, _WILDCARD_TEXT)


def _path(path: Object, at: str) -> Iterator[FieldError]:
    kind, text = path.get("pathType"), path.get("path") or ""
    if kind is None:
        yield errors.required(f"{at}.pathType", "pathType must be specified")
        return
    if kind not in _PATH_TYPES:
        yield errors.not_supported(f"{at}.pathType", kind, _PATH_TYPES)
    elif not text.startswith("/") and (text or kind != "ImplementationSpecific"):
        yield errors.invalid_value(f"{at}.path", text, "must be an absolute path")
    if kind in ("Exact", "Prefix"):
        for part in _NOT_IN_PATHS:
            if part in text:
                yield errors.invalid_value(f"{at}.path", text, f"must not contain '{part}'")
        for part in _NOT_AT_THE_END:
            if text.endswith(part):
                yield errors.invalid_value(f"{at}.path", text, f"cannot end with '{part}'")
    yield from _backend(path.get("backend") or {}, f"{at}.backend")


def _backend(backend: Object, at: str) -> Iterator[FieldError]:
    service, other = backend.get("service"), backend.get("resource")
    if service is None and other is None:
        yield errors.invalid_value(at, "", "resource or service backend is required")
    elif service is not None and other is not None:
        yield errors.invalid_value(at, "", "cannot set both resource and service backends")
    elif other is not None:
        for field in ("kind", "name"):
            if not other.get(field):
                yield errors.required(f"{at}.resource.{field}")
            elif problem := path_segment_name(other[field]):
                yield errors.invalid_value(f"{at}.resource.{field}", other[field], problem)
    else:
        yield from _service_backend(service, at)


def _service_backend(service: Any, at: str) -> Iterator[FieldError]:
    if not service.get("name"):
        yield errors.required(f"{at}.service.name")
    elif problem := label_name(service["name"]):
        yield errors.invalid_value(f"{at}.service.name", service["name"], problem)
    port = service.get("port") or {}
    name, number = port.get("name"), port.get("number")
    if name and number:
        yield errors.invalid_value(at, "", "cannot set both port name & port number")
    elif name:
        yield from validate_port_name(name, f"{at}.service.port.name")
    elif number:
        yield from validate_port_number(number, f"{at}.service.port.number")
    else:
        yield errors.required(at, "port name or number is required")
