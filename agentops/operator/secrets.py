"""Secrets: the one key that is needed, read live; tokens, made once.

The cache holds only the metadata of Secrets, so their content is in no memory longer than a reconcile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from agentops.api.conditions import Reason
from agentops.api.types import SecretKeyRef
from agentops.controller import Client, EventRecorder
from agentops.controller.errors import ForeignObject
from agentops.controller.owners import controller_of, is_controlled_by, set_controller_reference
from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP, SECRET
from agentops.operator.objects import names
from agentops.operator.objects.token_secret import encode, token_manifest
from agentops.telemetry.logging import get_logger
from agentops.values.headers import value_problem

log = get_logger("operator.secrets")

Fetched = dict[str, dict[str, Any] | None]


@frozen(slots=True, kw_only=True)
class Missing:
    """A reference that leads nowhere: `reason` of a condition and a sentence with the fix."""

    reason: Reason | Reason
    message: str


class SecretReader:
    """Live reads of Secrets and ConfigMaps within one reconcile; each object is fetched once."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._secrets: Fetched = {}
        self._config_maps: Fetched = {}

    async def secret_value(self, field: str, ref: SecretKeyRef) -> bytes | Missing:
        """The decoded value; `field` is the path of the reference, for the message."""
        secret = await self._fetch(self._secrets, SECRET, ref.name)
        where = f"Secret {self._namespace}/{ref.name} of {field}"
        if secret is None:
            return Missing(reason=Reason.SECRET_NOT_FOUND, message=f"{where} does not exist; create it")
        encoded = (secret.get("data") or {}).get(ref.key)
        if encoded is None:
            keys = ", ".join(sorted(secret.get("data") or {})) or "none"
            message = f"{where} has no key {ref.key!r} (keys: {keys}); add it or correct the reference"
            return Missing(reason=Reason.KEY_NOT_FOUND, message=message)
        value = decode_value(encoded)
        if not value.strip():
            return Missing(reason=Reason.KEY_NOT_FOUND, message=f"{where}: key {ref.key!r} is empty; put the value in")
        return value

    async def header_value(self, field: str, ref: SecretKeyRef) -> bytes | Missing:
        """The same of a value that is sent as an HTTP header, blanks around it apart."""
        value = await self.secret_value(field, ref)
        if isinstance(value, Missing):
            return value
        try:
            problem = value_problem(value.decode().strip())
        except UnicodeDecodeError:
            problem = "is no text"
        if not problem:
            return value
        where = f"Secret {self._namespace}/{ref.name} of {field}: key {ref.key!r}"
        message = f"{where} {problem}, which no HTTP header can carry; put the bare value in"
        return Missing(reason=Reason.SECRET_ERROR, message=message)

    async def secret_text(self, name: str, key: str) -> bytes:
        """The decoded value; empty when the Secret or the key is not there."""
        secret = await self._fetch(self._secrets, SECRET, name)
        return decode_value(((secret or {}).get("data") or {}).get(key, ""))

    async def file_content(self, field: str, name: str, key: str) -> bytes | Missing:
        """The content of a ConfigMap key."""
        config_map = await self._fetch(self._config_maps, CONFIG_MAP, name)
        where = f"ConfigMap {self._namespace}/{name} of {field}"
        if config_map is None:
            return Missing(reason=Reason.CONFIG_MAP_NOT_FOUND, message=f"{where} does not exist; create it")
        if key in (config_map.get("data") or {}):
            return str(config_map["data"][key]).encode()
        if key in (config_map.get("binaryData") or {}):
            return decode_value(config_map["binaryData"][key])
        message = f"{where} has no key {key!r}; add it or correct the reference"
        return Missing(reason=Reason.KEY_NOT_FOUND, message=message)

    async def _fetch(self, cache: Fetched, kind: Any, name: str) -> dict[str, Any] | None:
        if name not in cache:
            try:
                cache[name] = await self._client.live.get(kind, name, self._namespace)
            except NotFound:
                cache[name] = None
        return cache[name]


class TokenKeeper:
    """Makes token Secrets that are missing and completes those that lost a key; never changes a value it made."""

    def __init__(self, client: Client, recorder: EventRecorder, random_text: Callable[[], str]) -> None:
        self._client = client
        self._recorder = recorder
        self._random_text = random_text

    async def ensure(
        self, owner: Mapping[str, Any], labels: Mapping[str, str], keys: tuple[str, ...], derived: tuple[str, ...] = ()
    ) -> dict[str, bytes]:
        """The values of `keys` in Secret `<owner>-token`, and of those keys of `derived` that are there.

        Raises ForeignObject when it is somebody else's.
        """
        namespace, name = owner["metadata"]["namespace"], names.token_secret(owner["metadata"]["name"])
        try:
            live = await self._client.live.get(SECRET, name, namespace)
        except NotFound:
            return await self._create(owner, labels, namespace, name, keys)
        if not is_controlled_by(live, owner):
            raise ForeignObject(
                f"Secret {namespace}/{name}",
                f"{owner['kind']} {namespace}/{owner['metadata']['name']}",
                _controller_name(live),
            )
        have = {key: decode_value((live.get("data") or {}).get(key, "")) for key in keys}
        missing = {key: self._random_text() for key in keys if not have[key]}
        if missing:
            patch = {
                "metadata": {"resourceVersion": live["metadata"]["resourceVersion"]},
                "data": {key: encode(value) for key, value in missing.items()},
            }
            await self._client.patch(SECRET, name, patch, namespace)
            self._tell(owner, name)
        return (
            have
            | {key: value.encode() for key, value in missing.items()}
            | {key: decode_value(live["data"][key]) for key in derived if key in (live.get("data") or {})}
        )

    async def derive(self, owner: Mapping[str, Any], have: Mapping[str, bytes], key: str, value: str | None) -> None:
        """Bring a value that follows from others up to date; None takes it out. `have` is what `ensure` gave."""
        if have.get(key) == (None if value is None else value.encode()):
            return
        namespace, name = owner["metadata"]["namespace"], names.token_secret(owner["metadata"]["name"])
        await self._client.patch(SECRET, name, {"data": {key: None if value is None else encode(value)}}, namespace)
        log.info("token.derived", namespace=namespace, secret=name, key=key, present=value is not None)

    async def _create(
        self, owner: Mapping[str, Any], labels: Mapping[str, str], namespace: str, name: str, keys: tuple[str, ...]
    ) -> dict[str, bytes]:
        values = {key: self._random_text() for key in keys}
        secret = token_manifest(namespace, name, labels, values)
        set_controller_reference(owner, secret)
        await self._client.create(SECRET, secret)
        self._tell(owner, name)
        return {key: value.encode() for key, value in values.items()}

    def _tell(self, owner: Mapping[str, Any], name: str) -> None:
        log.info("token.created", namespace=owner["metadata"]["namespace"], secret=name)
        self._recorder.event(owner, "Normal", "TokenCreated", f"Made a bearer token in Secret {name}")


def decode_value(encoded: str) -> bytes:
    """A value of Secret data; text that is not base64 counts as empty."""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _controller_name(obj: Mapping[str, Any]) -> str:
    controller = controller_of(obj)
    return f"{controller['kind']} {controller['name']}" if controller else ""
