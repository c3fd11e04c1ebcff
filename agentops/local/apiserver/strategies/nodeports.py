"""Node ports of Services: given out, kept, checked and let go of.

Nothing is booked: what other Services have is taken, and a number is free again when the Service that had it has it no
more. As in Kubernetes the ports of one Service share a number when they differ in protocol only, and the lowest
numbers are given out last, since people ask for those by hand.
"""

from __future__ import annotations

from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import Context

Object = dict[str, Any]

_FIRST, _LAST = 30000, 32767
_BY_HAND = 86
"""How many of the lowest numbers are given out last."""


def fill_node_ports(ctx: Context, obj: Object, old: Object | None) -> None:
    """Give every port that needs one a node port, and the health check its own. Raises ApiFailure when none is left.

    On update (`old`) a port keeps its number by name, and what the new type has no use for is dropped if it was left
    as it was.
    """
    spec, before = obj["spec"], (old or {}).get("spec") or {}
    if old is not None:
        _drop(spec, before)
    if not _on_nodes(spec):
        return
    ports = spec.get("ports") or []
    if _on_nodes(before):
        _keep(ports, before.get("ports") or [])
    wants_all = spec["type"] == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False
    if wants_all and any(not port.get("nodePort") for port in ports):
        taken = _taken(ctx, obj) | _numbers(spec)
        for port in ports:
            port["nodePort"] = port.get("nodePort") or _shared(port, ports) or _next(ctx, taken)
            taken.add(port["nodePort"])
    if _checks_health(spec) and not spec.get("healthCheckNodePort"):
        kept = before.get("healthCheckNodePort") if _checks_health(before) else None
        spec["healthCheckNodePort"] = kept or _next(ctx, _taken(ctx, obj) | _numbers(spec))


def node_port_errors(ctx: Context, obj: Object) -> list[FieldError]:
    """What is wrong with the node ports of a Service, those that were filled in included."""
    spec, out = obj["spec"], []
    taken = _taken(ctx, obj) if _numbers(spec) else set()
    seen: set[tuple[Any, int]] = set()
    for index, port in enumerate(spec.get("ports") or ()):
        number, at = port.get("nodePort"), f"spec.ports[{index}].nodePort"
        if not number:
            continue
        if spec["type"] == "ClusterIP":
            out.append(errors.forbidden_field(at, "may not be used when `type` is 'ClusterIP'"))
        elif (port.get("protocol"), number) in seen:
            out.append(errors.duplicate(at, number))
        elif _on_nodes(spec) and (problem := _problem(number, taken)):
            out.append(errors.invalid_value(at, number, problem))
        seen.add((port.get("protocol"), number))
    check = spec.get("healthCheckNodePort")
    if check and not _checks_health(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        out.append(errors.invalid_value("spec.healthCheckNodePort", check, detail))
    elif check and (problem := _problem(check, taken | {number for _, number in seen})):
        out.append(errors.invalid_value("spec.healthCheckNodePort", check, problem))
    return out


def health_check_changed(new: Object, old: Object) -> list[FieldError]:
    """A health check's port is for good while there is one."""
    spec, before = new["spec"], old.get("spec") or {}
    number = spec.get("healthCheckNodePort")
    if _checks_health(spec) and _checks_health(before) and number != before.get("healthCheckNodePort"):
        return [errors.invalid_value("spec.healthCheckNodePort", number, "field is immutable")]
    return []


def _on_nodes(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def _checks_health(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _numbers(spec: Object) -> set[int]:
    found = {port.get("nodePort") for port in spec.get("ports") or ()}
    return {number for number in (*found, spec.get("healthCheckNodePort")) if number}


def _taken(ctx: Context, obj: Object) -> set[int]:
    """The node ports of all other Services."""
    meta, found = obj["metadata"], set()
    for entry in ctx.store.list("services"):
        if (entry.namespace, entry.name) != (meta.get("namespace"), meta.get("name")):
            found |= _numbers(entry.obj().get("spec") or {})
    return found


def _shared(port: Object, ports: list[Object]) -> int | None:
    """The number of a port that differs from this one in protocol only."""
    protocol = port.get("protocol")
    same = (p for p in ports if p.get("port") == port.get("port") and p.get("protocol") != protocol)
    return next((int(p["nodePort"]) for p in same if p.get("nodePort")), None)


def _next(ctx: Context, taken: set[int]) -> int:
    for numbers in (range(_FIRST + _BY_HAND, _LAST + 1), range(_FIRST, _FIRST + _BY_HAND)):
        free = [number for number in numbers if number not in taken]
        if free:
            return ctx.rng.choice(free)
    raise errors.internal("failed to allocate a nodePort: range is full")


def _problem(number: int, taken: set[int]) -> str:
    if not _FIRST <= number <= _LAST:
        return f"provided port is not in the valid range. The range of valid ports is {_FIRST}-{_LAST}"
    return "provided port is already allocated" if number in taken else ""


def _keep(ports: list[Object], before: list[Object]) -> None:
    """What an update leaves out stays as it was, by the name of the port."""
    known = {port.get("name") or "": port.get("nodePort") for port in before}
    used = {port.get("nodePort") for port in before} & {port.get("nodePort") for port in ports}
    for port in ports:
        old = known.get(port.get("name") or "")
        if not port.get("nodePort") and old and old not in used:
            port["nodePort"] = old
            used.add(old)


def _drop(spec: Object, before: Object) -> None:
    ports = spec.get("ports") or []
    numbers = {port.get("nodePort") for port in ports}
    known = {port.get("nodePort") for port in before.get("ports") or ()}
    if _on_nodes(before) and not _on_nodes(spec):
        if numbers <= {*known, None}:
            for port in ports:
                port.pop("nodePort", None)
        if spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
            spec.pop("externalTrafficPolicy", None)
    if before.get("type") == "LoadBalancer" and spec.get("type") != "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(name) == before.get(name):
                spec.pop(name, None)
    same = spec.get("healthCheckNodePort") == before.get("healthCheckNodePort")
    if _checks_health(before) and not _checks_health(spec) and same:
        spec.pop("healthCheckNodePort", None)
