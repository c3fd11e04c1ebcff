"""What a pod asks for, as schedulers and quotas add it up."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from agentops.values.quantity import parse_quantity

Object = Mapping[str, Any]
Section = Literal["requests", "limits"]

_POD_LEVEL = ("cpu", "memory")


def pod_requests(pod: Object) -> dict[str, Decimal]:
    """What a pod sets aside, by resource: its containers together, or what starts before them if that is more.

    Sidecars (init containers that restart) count in both. What is asked for the pod as a whole takes their place.
    """
    return _sum(pod, "requests")


def pod_limits(pod: Object) -> dict[str, Decimal]:
    """The same of the limits."""
    return _sum(pod, "limits")


def quantities(amounts: Object | None) -> dict[str, Decimal]:
    """A map of quantities, parsed. Raises ValueError."""
    return {name: parse_quantity(amount) for name, amount in (amounts or {}).items()}


def add(total: dict[str, Decimal], more: Mapping[str, Decimal]) -> None:
    """Add `more` to `total`."""
    for name, amount in more.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _sum(pod: Object, section: Section) -> dict[str, Decimal]:
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or ():
        add(total, _of(container, section))
    sidecars: dict[str, Decimal] = {}
    at_start: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        asked = _of(container, section)
        if container.get("restartPolicy") == "Always":
            add(total, asked)
            add(sidecars, asked)
            asked = dict(sidecars)
        else:
            add(asked, sidecars)
        _raise_to(at_start, asked)
    _raise_to(total, at_start)
    total |= {name: amount for name, amount in _of(spec, section).items() if name in _POD_LEVEL}
    overhead = quantities(spec.get("overhead"))
    add(total, overhead if section == "requests" else {name: overhead[name] for name in overhead if name in total})
    return total


def _of(holder: Object, section: Section) -> dict[str, Decimal]:
    return quantities((holder.get("resources") or {}).get(section))


def _raise_to(total: dict[str, Decimal], least: Mapping[str, Decimal]) -> None:
    for name, amount in least.items():
        total[name] = max(total.get(name, Decimal(0)), amount)
