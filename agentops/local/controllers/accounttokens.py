"""Secrets of type kubernetes.io/service-account-token: filled with a token that lasts as long as the Secret does.

secret made ──(account there)──► token, ca.crt, namespace and the account's uid written
            └─(account missing, or another of its name)──► secret deleted, also when the account goes later

As the token controller of kube-controller-manager, which is given the signing key; this one is given the signature.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from agentops.controller import Builder, Controller, EnqueueMapped, Manager, ObjectEvent, Request
from agentops.kube.errors import NotFound
from agentops.kube.kinds import SECRET, SERVICE_ACCOUNT
from agentops.local.controllers.claims import retrying_conflicts
from agentops.local.controllers.pods import Object, annotations_of, is_deleting, name_of, namespace_of, uid_of

TYPE = "kubernetes.io/service-account-token"
NAME_NOTE = "kubernetes.io/service-account.name"
UID_NOTE = "kubernetes.io/service-account.uid"

Sign = Callable[[Object, Object], str]
"""The token of an account (first) that a Secret (second) is to hold."""


class AccountTokenController:
    """Fills and deletes token Secrets. The cache has their metadata only; what is in them is read live."""

    def __init__(self, manager: Manager, ca_pem: bytes, sign: Sign) -> None:
        self._manager = manager
        self._client = manager.client
        self._ca_pem = ca_pem
        self._sign = sign

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("serviceaccount-token")
            .for_(SECRET, predicates=(_names_an_account,), metadata_only=True)
            .watches(SERVICE_ACCOUNT, EnqueueMapped(self._secrets_of), predicates=(_is_deletion,))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        try:
            secret = await self._client.live.get(SECRET, request.name, request.namespace)
        except NotFound:
            return
        if secret.get("type") != TYPE or is_deleting(secret):
            return
        account = await self._account_of(secret)
        if account is None:
            await self._delete(secret)
        elif (filled := self._filled(secret, account)) != secret:
            await self._client.update(SECRET, filled)

    async def _account_of(self, secret: Object) -> Object | None:
        notes = annotations_of(secret)
        try:
            account = await self._client.live.get(SERVICE_ACCOUNT, notes.get(NAME_NOTE, ""), namespace_of(secret))
        except NotFound:
            return None
        return account if notes.get(UID_NOTE) in (None, "", uid_of(account)) else None

    def _filled(self, secret: Object, account: Object) -> Object:
        data = dict(secret.get("data") or {})
        wanted = {"ca.crt": self._ca_pem} if self._ca_pem else {}
        if not data.get("namespace"):
            wanted["namespace"] = namespace_of(secret).encode()
        if not data.get("token"):
            wanted["token"] = self._sign(account, secret).encode()
        data |= {name: base64.b64encode(value).decode() for name, value in wanted.items()}
        notes = {**annotations_of(secret), UID_NOTE: uid_of(account)}
        return {**secret, "metadata": {**secret["metadata"], "annotations": notes}, "data": data}

    async def _delete(self, secret: Object) -> None:
        version = secret["metadata"]["resourceVersion"]
        try:
            await self._client.delete(
                SECRET, name_of(secret), namespace_of(secret), uid=uid_of(secret), resource_version=version
            )
        except NotFound:
            return

    async def _secrets_of(self, account: Object) -> list[Request]:
        secrets = await self._client.list(SECRET, namespace_of(account), metadata_only=True)
        return [Request.of(s) for s in secrets if annotations_of(s).get(NAME_NOTE) == name_of(account)]


def _names_an_account(event: ObjectEvent) -> bool:
    return NAME_NOTE in annotations_of(event.object)


def _is_deletion(event: ObjectEvent) -> bool:
    return event.type == "delete"
