"""Conversion webhooks: custom resources that are stored in one version and served in others.

What a webhook made of an object is remembered by content, so that reads and writes stay synchronous:
one that is not there yet raises `Undecided`. Objects are asked about in batches: whoever needs one
gets up to 500 others of the kind converted along with it, since lists come next.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
from attrs import field, frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.store import Store
from agentops.local.apiserver.undecided import Undecided
from agentops.local.apiserver.webhook_caller import Caller, CallFailed, target_of

Object = dict[str, Any]

_MUTABLE = ("labels", "annotations")
_BATCH = 500
_REMEMBERED = 20_000
_TIMEOUT_S = 30.0


@frozen(slots=True)
class WebhookConverter:
    """The conversion of one CRD. Equal to another with the same configuration."""

    storage: str
    config: Mapping[str, Any]
    _store: Store = field(eq=False)
    _caller: Caller = field(eq=False)
    _known: OrderedDict[bytes, Object] = field(factory=OrderedDict, eq=False)

    def convert(self, obj: Object, api_version: str) -> Object:
        """`obj` in `api_version`, as a copy unless it is in it. Raises Undecided."""
        if obj.get("apiVersion") == api_version:
            return obj
        key = _key(obj, api_version)
        found = self._known.get(key)
        if found is None:
            raise _Conversion(self, obj, api_version)
        self._known.move_to_end(key)
        copy: Object = orjson.loads(orjson.dumps(found))
        metadata = {name: value for name, value in obj["metadata"].items() if name not in _MUTABLE}
        copy["metadata"] = {**metadata, **{n: v for n, v in copy["metadata"].items() if n in _MUTABLE}}
        return copy

    async def learn(self, obj: Object, api_version: str) -> None:
        """Ask about `obj`, and about stored ones beside it. Raises ApiFailure."""
        batch = [obj, *self._others(obj, api_version)]
        for source, converted in zip(batch, await self._call(batch, api_version), strict=True):
            self._known[_key(source, api_version)] = converted
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _others(self, obj: Object, api_version: str) -> Iterator[Object]:
        count = 1
        for entry in self._store.list(self.storage):
            if count == _BATCH:
                return
            other = entry.obj()
            if other.get("apiVersion") == api_version or other["metadata"].get("uid") == obj["metadata"].get("uid"):
                continue
            if _key(other, api_version) not in self._known:
                count += 1
                yield other

    async def _call(self, batch: Sequence[Object], api_version: str) -> list[Object]:
        kind = batch[0].get("kind")
        uid = str(uuid4())
        review = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "ConversionReview",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": list(batch)},
        }
        try:
            if "v1" not in (self.config.get("conversionReviewVersions") or ()):
                raise CallFailed("conversionReviewVersions does not have v1")
            target = target_of(self.config.get("clientConfig") or {}, self._store)
            answer = await self._caller(target, review, _TIMEOUT_S)
            return _converted(answer, batch, api_version, uid)
        except CallFailed as error:
            source = batch[0].get("apiVersion")
            raise errors.ApiFailure(
                500, "InternalError", f"conversion webhook for {source}, Kind={kind} failed: {error}"
            ) from error


class _Conversion(Undecided):
    def __init__(self, converter: WebhookConverter, obj: Object, api_version: str) -> None:
        super().__init__("conversion webhook")
        self._parts = (converter, obj, api_version)

    async def decide(self) -> None:
        converter, obj, api_version = self._parts
        await converter.learn(obj, api_version)


def converter_of(crd: Object, storage: str, store: Store, caller: Caller) -> WebhookConverter | None:
    """The CRD's, when its strategy is Webhook."""
    conversion = crd["spec"].get("conversion") or {}
    if conversion.get("strategy") != "Webhook":
        return None
    return WebhookConverter(storage, conversion.get("webhook") or {}, store, caller)


def _converted(answer: Object, batch: Sequence[Object], api_version: str, uid: str) -> list[Object]:
    """The objects of an answer that keeps the rules. Raises CallFailed naming the one it breaks."""
    response = answer.get("response")
    if answer.get("kind") != "ConversionReview" or not isinstance(response, dict):
        raise CallFailed("the answer is no ConversionReview with a response")
    if response.get("uid") != uid:
        raise CallFailed(f"expected response.uid={uid!r}, got {response.get('uid')!r}")
    result = response.get("result") or {}
    if result.get("status") != "Success":
        raise CallFailed(str(result.get("message") or "no message"))
    found = response.get("convertedObjects") or []
    if len(found) != len(batch):
        raise CallFailed(f"returned {len(found)} objects, expected {len(batch)}")
    for index, (source, converted) in enumerate(zip(batch, found, strict=True)):
        if converted.get("apiVersion") != api_version or converted.get("kind") != source.get("kind"):
            raise CallFailed(f"returned invalid object at index {index}: its apiVersion or kind is not as asked")
        for name in ("name", "namespace", "uid"):
            if (converted.get("metadata") or {}).get(name) != source["metadata"].get(name):
                raise CallFailed(f"returned invalid metadata in object at index {index}: {name} changed")
    return list(found)


def _key(obj: Mapping[str, Any], api_version: str) -> bytes:
    """Of everything a conversion may look at and change."""
    metadata = obj.get("metadata") or {}
    content = {name: value for name, value in obj.items() if name != "metadata"}
    parts = [api_version, content, metadata.get("name"), *(metadata.get(name) for name in _MUTABLE)]
    return hashlib.blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=20).digest()
