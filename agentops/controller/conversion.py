"""Conversion between the versions of a custom resource, through one hub version.

    v1alpha1 ──to_hub──►  v1 (hub)  ──from_hub──► v1beta1

N versions need N-1 pairs of functions. The API server calls us with many objects at once; either all
of them are converted, in order, or none.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio.lowlevel
from attrs import field, frozen

from agentops.controller.admission import BadReview, parse_object
from agentops.controller.errors import BuildError, ControllerError
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("controller.conversion")

Object = dict[str, Any]
Convert = Callable[[Object], None]
"""Changes a private copy in place. `apiVersion` is set for it; of `metadata` only labels and annotations may change."""

API_VERSION = "apiextensions.k8s.io/v1"
_MUTABLE_METADATA = ("labels", "annotations")
_TURN_S = 0.005


class ConversionError(ControllerError):
    """An object cannot be converted; the message names it."""


@frozen(slots=True)
class Spoke:
    """How one version becomes the hub's, and back. What the other side has no field for belongs into an annotation."""

    to_hub: Convert
    from_hub: Convert


@frozen(slots=True)
class Converter:
    """All versions of one kind. `hub` is the version everything goes through, usually the stored one."""

    hub: Kind
    spokes: Mapping[str, Spoke] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.hub.version in self.spokes:
            raise BuildError(f"{self.hub.version} is the hub of {self.hub.kind} and cannot be a spoke too")

    def convert(self, obj: Mapping[str, Any], to: str) -> Object:
        """A copy of `obj` in apiVersion `to`. Raises ConversionError."""
        source, target = str(obj.get("apiVersion")), to
        result = copy.deepcopy(dict(obj))
        for step in (self._spoke(source, "to_hub"), self._spoke(target, "from_hub")):
            if step is not None and source != target:
                step(result)
        result["apiVersion"], result["kind"] = target, obj["kind"]
        if _fixed(result) != _fixed(obj):
            raise ConversionError(f"converting to {to} changed metadata beyond labels and annotations")
        return result

    def _spoke(self, api_version: str, direction: str) -> Convert | None:
        group, _, version = api_version.rpartition("/")
        if group == self.hub.group and version == self.hub.version:
            return None
        spoke = self.spokes.get(version) if group == self.hub.group else None
        if spoke is None:
            known = ", ".join(sorted((self.hub.version, *self.spokes)))
            raise ConversionError(f"{self.hub.kind} has no version {api_version}; there are {known}")
        return spoke.to_hub if direction == "to_hub" else spoke.from_hub


def _fixed(obj: Mapping[str, Any]) -> Object:
    return {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _MUTABLE_METADATA}


class Converters:
    """The kinds that `/convert` knows."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, str], Converter] = {}

    def add(self, converter: Converter) -> None:
        """Raises BuildError when the kind has a converter."""
        key = (converter.hub.group, converter.hub.kind)
        if key in self._by_kind:
            raise BuildError(f"{converter.hub.kind} has a converter already")
        self._by_kind[key] = converter

    async def answer(self, body: bytes) -> tuple[Object, bool]:
        """The ConversionReview to send back, and whether a function broke. Raises BadReview.

        A list of a kind is one review: others get to run while it is converted.
        """
        review = parse_object(body)
        request = review.get("request")
        if review.get("kind") != "ConversionReview" or review.get("apiVersion") != API_VERSION:
            raise BadReview(f"expected a ConversionReview of {API_VERSION}")
        if not isinstance(request, dict) or not request.get("uid") or not request.get("desiredAPIVersion"):
            raise BadReview("the ConversionReview has no request with a uid and a desiredAPIVersion")
        response: Object = {"uid": request["uid"], "convertedObjects": []}
        broke = False
        name = ""
        turn_ends = time.monotonic() + _TURN_S
        try:
            for obj in request.get("objects") or ():
                if time.monotonic() > turn_ends:
                    await anyio.lowlevel.checkpoint()
                    turn_ends = time.monotonic() + _TURN_S
                name = _name(obj)
                response["convertedObjects"].append(self._convert(obj, request["desiredAPIVersion"]))
            response["result"] = {"status": "Success"}
        except ConversionError as error:
            response = _failed(request["uid"], f"{name}: {error}")
        except Exception as error:
            broke = True
            log.exception("conversion.failed", object=name, to=request["desiredAPIVersion"])
            response = _failed(request["uid"], f"{name}: the webhook failed: {type(error).__name__}: {error}")
        return {"apiVersion": API_VERSION, "kind": "ConversionReview", "response": response}, broke

    def _convert(self, obj: Mapping[str, Any], to: str) -> Object:
        group = str(obj.get("apiVersion") or "").rpartition("/")[0]
        converter = self._by_kind.get((group, str(obj.get("kind"))))
        if converter is None:
            raise ConversionError(f"no converter for {obj.get('kind')} of group {group!r}")
        return converter.convert(obj, to)


def _name(obj: Any) -> str:
    metadata = obj.get("metadata") or {} if isinstance(obj, dict) else {}
    name = "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{obj.get('kind') if isinstance(obj, dict) else 'object'} {name}"


def _failed(uid: str, message: str) -> Object:
    return {"uid": uid, "convertedObjects": [], "result": {"status": "Failed", "message": message}}
