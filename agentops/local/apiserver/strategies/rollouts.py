"""Checks of how Deployments and StatefulSets change their pods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import not_negative

Object = dict[str, Any]

_PERCENT = re.compile(r"[0-9]+%", re.ASCII)
_PERCENT_TEXT = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)
_RETENTION = ("Delete", "Retain")


def validate_deployment(spec: Object) -> Iterator[FieldError]:
    """Of a defaulted Deployment: a roll-out that can move, and ends before it is called stuck."""
    yield from not_negative(spec, "spec", ("minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"))
    strategy, at = spec["strategy"], "spec.strategy"
    if strategy["type"] == "Recreate":
        if strategy.get("rollingUpdate"):
            detail = "may not be specified when strategy `type` is 'Recreate'"
            yield errors.forbidden_field(f"{at}.rollingUpdate", detail)
    elif strategy["type"] == "RollingUpdate":
        yield from _rolling(strategy["rollingUpdate"], f"{at}.rollingUpdate")
    else:
        yield errors.not_supported(at, strategy, ("Recreate", "RollingUpdate"))
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= (spec.get("minReadySeconds") or 0):
        yield errors.invalid_value("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _rolling(rolling: Object, at: str) -> Iterator[FieldError]:
    unavailable, surge = rolling["maxUnavailable"], rolling["maxSurge"]
    yield from _amount(unavailable, f"{at}.maxUnavailable")
    yield from _amount(surge, f"{at}.maxSurge")
    if _figure(unavailable) == 0 and _figure(surge) == 0:
        yield errors.invalid_value(f"{at}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    if isinstance(unavailable, str) and _PERCENT.fullmatch(unavailable) and _figure(unavailable) > 100:
        yield errors.invalid_value(f"{at}.maxUnavailable", unavailable, "must not be greater than 100%")


def _amount(value: int | str, at: str) -> Iterator[FieldError]:
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            yield errors.invalid_value(at, value, _PERCENT_TEXT)
    elif value < 0:
        yield errors.invalid_value(at, value, "must be greater than or equal to 0")


def _figure(value: int | str) -> int:
    """The number of either form; what is none of them counts as nothing, as kube-apiserver has it."""
    if isinstance(value, str):
        value = value.removesuffix("%") if _PERCENT.fullmatch(value) else value
        return int(value) if re.fullmatch(r"[-+]?[0-9]+", value, re.ASCII) else 0
    return value


def validate_stateful_set(spec: Object) -> Iterator[FieldError]:
    """Of a defaulted StatefulSet: policies there are."""
    policy = spec["podManagementPolicy"]
    if policy not in ("OrderedReady", "Parallel"):
        yield errors.invalid_value("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    update, at = spec["updateStrategy"], "spec.updateStrategy"
    if update["type"] == "OnDelete":
        if update.get("rollingUpdate"):
            detail = "only allowed for updateStrategy 'RollingUpdate'"
            yield errors.invalid_value(f"{at}.rollingUpdate", update["rollingUpdate"], detail)
    elif update["type"] == "RollingUpdate":
        yield from not_negative(update["rollingUpdate"], f"{at}.rollingUpdate", ("partition",))
    else:
        yield errors.invalid_value(at, update, "must be 'RollingUpdate' or 'OnDelete'")
    yield from not_negative(spec, "spec", ("minReadySeconds", "revisionHistoryLimit"))
    yield from not_negative(spec.get("ordinals") or {}, "spec.ordinals", ("start",))
    for field, value in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
        if value not in _RETENTION:
            yield errors.not_supported(f"spec.persistentVolumeClaimRetentionPolicy.{field}", value, _RETENTION)
