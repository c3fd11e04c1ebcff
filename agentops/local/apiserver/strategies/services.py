"""Checks of Services and EndpointSlices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.meta import qualified_name_problem, validate_labels
from agentops.local.apiserver.strategies.addresses import (
    NOT_AN_ADDRESS,
    PROTOCOLS,
    parse_address,
    validate_network,
    validate_port,
    validate_port_number,
    validate_public_address,
)
from agentops.local.apiserver.strategies.base import label_name, subdomain_name

Object = dict[str, Any]

_POLICIES = ("Cluster", "Local")
_DAY_S = 86400
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
_MOST_ENDPOINTS = 1000
_MOST_ADDRESSES = 100
_MOST_PORTS = 100


def seen_from_outside(spec: Mapping[str, Any]) -> bool:
    """Whether there is an outside to have a traffic policy for."""
    return spec.get("type") in ("NodePort", "LoadBalancer") or (
        spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def validate_service(spec: Object) -> Iterator[FieldError]:
    """What a Service says of its ports, addresses and clients; names and clusterIP are checked elsewhere."""
    for index, port in enumerate(spec.get("ports") or ()):
        at = f"spec.ports[{index}]"
        if port.get("protocol") not in PROTOCOLS:
            yield errors.not_supported(f"{at}.protocol", port.get("protocol"), PROTOCOLS)
        yield from validate_port(port.get("targetPort"), f"{at}.targetPort")
        yield from _app_protocol(port, at)
    yield from validate_labels(spec.get("selector") or {}, "spec.selector")
    yield from _affinity(spec)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        yield from validate_public_address(address, f"spec.externalIPs[{index}]")
    yield from _policies(spec)
    ranges = spec.get("loadBalancerSourceRanges") or ()
    for index, text in enumerate(ranges):
        yield from validate_network(text.strip(), f"spec.loadBalancerSourceRanges[{index}]")
    if ranges and spec["type"] != "LoadBalancer":
        detail = "may only be used when `type` is 'LoadBalancer'"
        yield errors.forbidden_field("spec.loadBalancerSourceRanges", detail)
    yield from _by_type(spec)


def _by_type(spec: Object) -> Iterator[FieldError]:
    kind = spec["type"]
    if kind in ("LoadBalancer", "NodePort") and spec.get("clusterIP") == "None":
        detail = f"may not be set to 'None' for {kind} services"
        yield errors.invalid_value("spec.clusterIPs[0]", "None", detail)
    name = (spec.get("externalName") or "").removesuffix(".")
    if kind == "ExternalName" and name and (problem := subdomain_name(name)):
        yield errors.invalid_value("spec.externalName", name, problem)


def _affinity(spec: Object) -> Iterator[FieldError]:
    affinity, config = spec.get("sessionAffinity"), spec.get("sessionAffinityConfig")
    if affinity not in ("ClientIP", "None"):
        yield errors.not_supported("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    elif affinity == "None" and config is not None:
        detail = "must not be set when session affinity is None"
        yield errors.forbidden_field("spec.sessionAffinityConfig", detail)
    elif affinity == "ClientIP":
        at, client = "spec.sessionAffinityConfig.clientIP", (config or {}).get("clientIP")
        seconds = (client or {}).get("timeoutSeconds")
        if client is None:
            yield errors.required(at, "when session affinity type is ClientIP")
        elif seconds is None:
            yield errors.required(f"{at}.timeoutSeconds", "when session affinity type is ClientIP")
        elif not 0 < seconds <= _DAY_S:
            detail = f"must be greater than 0 and less than {_DAY_S}"
            yield errors.invalid_value(f"{at}.timeoutSeconds", seconds, detail)


def _policies(spec: Object) -> Iterator[FieldError]:
    inside, outside = spec.get("internalTrafficPolicy"), spec.get("externalTrafficPolicy")
    if inside and inside not in _POLICIES:
        yield errors.not_supported("spec.internalTrafficPolicy", inside, _POLICIES)
    if outside and not seen_from_outside(spec):
        detail = "may only be set for externally-accessible services"
        yield errors.invalid_value("spec.externalTrafficPolicy", outside, detail)
    elif outside and outside not in _POLICIES:
        yield errors.not_supported("spec.externalTrafficPolicy", outside, _POLICIES)


def _app_protocol(port: Object, at: str) -> Iterator[FieldError]:
    protocol = port.get("appProtocol")
    if protocol is not None and (problem := qualified_name_problem(protocol)):
        yield errors.invalid_value(f"{at}.appProtocol", protocol, problem)


def validate_endpoints(subsets: Iterable[Object]) -> Iterator[FieldError]:
    """Of Endpoints, which become slices: addresses, and ports that can be told apart."""
    for index, subset in enumerate(subsets):
        at, ports = f"subsets[{index}]", subset.get("ports") or ()
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield errors.required(at, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                text = address.get("ip") or ""
                if parse_address(text) is None:
                    yield errors.invalid_value(f"{at}.{field}[{number}].ip", text, NOT_AN_ADDRESS)
        for number, port in enumerate(ports):
            here, name = f"{at}.ports[{number}]", port.get("name") or ""
            if not name and len(ports) > 1:
                yield errors.required(f"{here}.name")
            elif name and (problem := label_name(name)):
                yield errors.invalid_value(f"{here}.name", name, problem)
            yield from validate_port_number(port.get("port"), f"{here}.port")
            if port.get("protocol") not in PROTOCOLS:
                yield errors.not_supported(f"{here}.protocol", port.get("protocol"), PROTOCOLS)


def validate_endpoint_slice(piece: Object) -> Iterator[FieldError]:
    """Addresses of the type it names, ports told apart."""
    kind = piece.get("addressType") or ""
    if not kind:
        yield errors.required("addressType")
    elif kind not in _ADDRESS_TYPES:
        yield errors.not_supported("addressType", kind, _ADDRESS_TYPES)
    endpoints, ports = piece.get("endpoints") or (), piece.get("ports") or ()
    if len(endpoints) > _MOST_ENDPOINTS:
        yield _too_many("endpoints", len(endpoints), _MOST_ENDPOINTS)
        endpoints = ()
    for index, endpoint in enumerate(endpoints):
        at, addresses = f"endpoints[{index}]", endpoint.get("addresses") or ()
        if not addresses:
            yield errors.required(f"{at}.addresses", "must contain at least 1 address")
        elif len(addresses) > _MOST_ADDRESSES:
            yield _too_many(f"{at}.addresses", len(addresses), _MOST_ADDRESSES)
        for number, address in enumerate(addresses):
            yield from _address(kind, address, f"{at}.addresses[{number}]")
        host = endpoint.get("hostname")
        if host is not None and (problem := label_name(host)):
            yield errors.invalid_value(f"{at}.hostname", host, problem)
    if len(ports) > _MOST_PORTS:
        yield _too_many("ports", len(ports), _MOST_PORTS)
        return
    names: set[str] = set()
    for index, port in enumerate(ports):
        at, name = f"ports[{index}]", port.get("name") or ""
        if name and (problem := label_name(name)):
            yield errors.invalid_value(f"{at}.name", name, problem)
        if name in names:
            yield errors.duplicate(f"{at}.name", name)
        names.add(name)
        if port.get("protocol") not in PROTOCOLS:
            yield errors.not_supported(f"{at}.protocol", port.get("protocol"), PROTOCOLS)
        yield from _app_protocol(port, at)


def _address(kind: str, text: str, at: str) -> Iterator[FieldError]:
    # A pod of this plane has an address of its machine, so what a cluster calls special is not refused.
    if kind in ("IPv4", "IPv6"):
        address = parse_address(text)
        if address is None or f"IPv{address.version}" != kind:
            yield errors.invalid_value(at, text, f"must be a valid {kind} address")
    elif kind == "FQDN":
        name = text.removesuffix(".")
        if problem := subdomain_name(name):
            yield errors.invalid_value(at, text, problem)
        elif "." not in name:
            yield errors.invalid_value(at, text, "should be a domain with at least two segments separated by dots")


def _too_many(at: str, count: int, most: int) -> FieldError:
    return FieldError(errors.TOO_MANY, at, f"{count}: must have at most {most} items")
