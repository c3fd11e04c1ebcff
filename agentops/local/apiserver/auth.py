"""Who asks, and whether they may.

Client certificates are checked by the shell (the request then has a user), tokens here: the static
admin token and ServiceAccount JWTs. `Authorizer` is what `rbac` implements.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from attrs import evolve, frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import ADMIN, ANONYMOUS, Request, User
from agentops.local.apiserver.store import Store
from agentops.values.clock import Clock

AUDIENCE = "https://kubernetes.default.svc"
_SECRET_ISSUER = "kubernetes/serviceaccount"
"""Of tokens in Secrets; a prefix of their claims, too."""
_EXTRA = "impersonate-extra-"
_MIN_LIFE_S = 600
_MAX_LIFE_S = 365 * 86400


@frozen(slots=True)
class Attributes:
    """What is asked: the fields RBAC decides by."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    is_resource: bool = True


class Authorizer(Protocol):
    """Decides. Returns None to allow, else why not ("" when there is nothing to add)."""

    def refuse(self, user: User, attributes: Attributes) -> str | None: ...

    def rules(self, user: User, namespace: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Resource and non-resource rules, for SelfSubjectRulesReview."""
        ...


def forbidden_message(user: User, a: Attributes, why: str = "") -> errors.ApiFailure:
    """The 403 of a real server."""
    tail = f": {why}" if why else ""
    if not a.is_resource:
        return errors.forbidden(f'forbidden: User "{user.name}" cannot {a.verb} path "{a.path}"{tail}')
    full = errors.qualified(a.group, a.resource)
    subject = f'{full} "{a.name}"' if a.name else full
    resource = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    scope = f'in the namespace "{a.namespace}"' if a.namespace else "at the cluster scope"
    about = f'cannot {a.verb} resource "{resource}" in API group "{a.group}" {scope}'
    text = f'{subject} is forbidden: User "{user.name}" {about}'
    details = {k: v for k, v in (("name", a.name), ("group", a.group), ("kind", a.resource)) if v}
    return errors.forbidden(text + tail, details)


class Tokens:
    """ServiceAccount tokens: RS256 JWTs bound to the account and, when asked, a pod; or to a Secret that holds them."""

    def __init__(self, key_pem: bytes | None, issuer: str, store: Store, clock: Clock) -> None:
        self._pem = key_pem
        self.issuer = issuer
        self._store = store
        self._clock = clock
        self._private: Any = None
        self._kid = ""

    def _key(self) -> Any:
        if self._private is None:
            from cryptography.hazmat.primitives import hashes, serialization
            from cryptography.hazmat.primitives.asymmetric import rsa

            if self._pem is None:
                self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            else:
                self._private = serialization.load_pem_private_key(self._pem, None)
            der = self._private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            digest = hashes.Hash(hashes.SHA256())
            digest.update(der)
            self._kid = base64.urlsafe_b64encode(digest.finalize()).decode().rstrip("=")
        return self._private

    def issue(
        self,
        namespace: str,
        account: dict[str, Any],
        *,
        audiences: list[str],
        seconds: int,
        bound: dict[str, Any] | None,
        token_id: str,
    ) -> tuple[str, int]:
        """The token and its expiry in epoch seconds."""
        import jwt

        now = int(self._clock.now().timestamp())
        seconds = max(_MIN_LIFE_S, min(seconds, _MAX_LIFE_S))
        meta = account["metadata"]
        about: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
        }
        if bound:
            about[str(bound["kind"]).lower()] = {"name": bound["name"], "uid": bound["uid"]}
        claims = {
            "aud": audiences or [AUDIENCE],
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "jti": token_id,
            "iss": self.issuer,
            "sub": f"system:serviceaccount:{namespace}:{meta['name']}",
            "kubernetes.io": about,
        }
        key = self._key()
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": self._kid}), now + seconds

    def for_secret(self, account: dict[str, Any], secret: dict[str, Any]) -> str:
        """The token for a Secret of type kubernetes.io/service-account-token. It has no end but the Secret's."""
        import jwt

        meta, holder = account["metadata"], secret["metadata"]
        claims = {
            "iss": _SECRET_ISSUER,
            f"{_SECRET_ISSUER}/namespace": holder["namespace"],
            f"{_SECRET_ISSUER}/secret.name": holder["name"],
            f"{_SECRET_ISSUER}/service-account.name": meta["name"],
            f"{_SECRET_ISSUER}/service-account.uid": meta["uid"],
            "sub": f"system:serviceaccount:{holder['namespace']}:{meta['name']}",
        }
        key = self._key()
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": self._kid})

    def _of_secret(self, token: str) -> User | None:
        """The user of a token that a Secret holds, as long as it does."""
        import jwt

        try:
            claims = jwt.decode(token, self._key().public_key(), algorithms=["RS256"], issuer=_SECRET_ISSUER)
        except jwt.InvalidTokenError:
            return None
        told = {name: str(claims.get(f"{_SECRET_ISSUER}/{name}")) for name in (
            "namespace", "secret.name", "service-account.name", "service-account.uid")}  # fmt: skip
        namespace, account = told["namespace"], told["service-account.name"]
        entry = self._store.get("secrets", namespace, told["secret.name"])
        if entry is None:
            return None
        secret = entry.obj()
        held = (secret.get("data") or {}).get("token")
        if secret["metadata"].get("deletionTimestamp") or held != base64.b64encode(token.encode()).decode():
            return None
        if not self._alive("serviceaccounts", namespace, {"name": account, "uid": told["service-account.uid"]}):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(f"system:serviceaccount:{namespace}:{account}", groups, told["service-account.uid"])

    def verify(self, token: str, audiences: tuple[str, ...] = (AUDIENCE,)) -> User | None:
        """The user a token stands for; None when it is not valid now."""
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._key().public_key(),
                algorithms=["RS256"],
                audience=list(audiences),
                issuer=self.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return self._of_secret(token) if AUDIENCE in audiences else None
        now = self._clock.now().timestamp()
        if not claims.get("nbf", 0) - 60 <= now < claims.get("exp", 0):
            return None
        about = claims.get("kubernetes.io") or {}
        namespace = str(about.get("namespace", ""))
        account = about.get("serviceaccount") or {}
        if not self._alive("serviceaccounts", namespace, account):
            return None
        extra: dict[str, tuple[str, ...]] = {
            "authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti')}",)
        }
        pod = about.get("pod")
        if pod:
            if not self._alive("pods", namespace, pod):
                return None
            extra["authentication.kubernetes.io/pod-name"] = (pod["name"],)
            extra["authentication.kubernetes.io/pod-uid"] = (pod["uid"],)
        secret = about.get("secret")
        if secret and not self._alive("secrets", namespace, secret):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(str(claims["sub"]), groups, str(account.get("uid", "")), extra)

    def _alive(self, storage: str, namespace: str, ref: dict[str, Any]) -> bool:
        entry = self._store.get(storage, namespace, str(ref.get("name", "")))
        return entry is not None and entry.obj()["metadata"].get("uid") == ref.get("uid")

    def jwks(self) -> dict[str, Any]:
        """The public key as /openid/v1/jwks serves it."""
        numbers = self._key().public_key().public_numbers()

        def text(value: int) -> str:
            size = (value.bit_length() + 7) // 8
            return base64.urlsafe_b64encode(value.to_bytes(size, "big")).decode().rstrip("=")

        return {"keys": [{"use": "sig", "kty": "RSA", "kid": self._kid, "alg": "RS256", "n": text(numbers.n),
                          "e": text(numbers.e)}]}  # fmt: skip

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }


class Authenticator:
    """From a request to a user. Raises ApiFailure 401 for a bad credential."""

    def __init__(self, tokens: Tokens, admin_token: str | None) -> None:
        self._tokens = tokens
        self._admin_token = admin_token
        self.impersonation: Callable[[User, User], errors.ApiFailure | None] | None = None
        """Why a user may not act as another with what was asked for; without it only system:masters may."""

    def authenticate(self, request: Request) -> User:
        user = request.user
        header = request.header("authorization")
        if user is None and header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise errors.unauthorized()
            user = self.user_of(token.strip())
            if user is None:
                raise errors.unauthorized()
        if user is None:
            return ANONYMOUS
        return self._impersonated(request, user)

    def user_of(self, token: str, audiences: tuple[str, ...] = (AUDIENCE,)) -> User | None:
        if self._admin_token and hmac.compare_digest(token.encode(), self._admin_token.encode()):
            return User("agentops-local-admin", ADMIN.groups)
        return self._tokens.verify(token, audiences)

    def _impersonated(self, request: Request, user: User) -> User:
        name = request.header("impersonate-user")
        if not name:
            also = [header for header in request.headers if header.startswith("impersonate-")]
            if also:  # without this the request would be made as somebody who may more than the one that was meant
                raise errors.bad_request(f"{', '.join(sorted(also))} without impersonate-user: name the user too")
            return user
        asked = User(name, _values(request, "impersonate-group"), request.header("impersonate-uid"), _extra(request))
        if self.impersonation is not None:
            refused = self.impersonation(user, asked)
            if refused is not None:
                raise refused
        elif "system:masters" not in user.groups:
            raise errors.forbidden(
                f'users "{name}" is forbidden: User "{user.name}" cannot impersonate resource "users" in API '
                f'group "" at '
                "the cluster scope"
            )
        groups = dict.fromkeys(asked.groups)
        if name.startswith("system:serviceaccount:"):
            namespace = name.split(":")[2]
            groups.setdefault("system:serviceaccounts")
            groups.setdefault(f"system:serviceaccounts:{namespace}")
        groups.setdefault("system:unauthenticated" if name == "system:anonymous" else "system:authenticated")
        return evolve(asked, groups=tuple(groups))


def _values(request: Request, header: str) -> tuple[str, ...]:
    """A header that may stand there several times."""
    return tuple(value for value in request.header(header).split("\n") if value)


def _extra(request: Request) -> dict[str, tuple[str, ...]]:
    """What `Impersonate-Extra-<key>` says, by key; keys are percent-encoded."""
    names = [name for name in request.headers if name.startswith(_EXTRA)]
    return {unquote(name.removeprefix(_EXTRA)).lower(): _values(request, name) for name in names}
