"""Bearers of the memory service: one for everything, and one per project made from it.

A project's bearer is `amp1.<project>.<signature>`, both parts base64url, the signature an HMAC-SHA256 of the project
under the service's own bearer. So the operator can make one for an agent, the service knows it without being told, and
a new service bearer ends all of them.
"""

from __future__ import annotations

import base64
import binascii
import hmac

_PREFIX = "amp1"
_PURPOSE = b"agentops memory project\x00"


def project_bearer(service_bearer: str, project: str) -> str:
    """What a caller that may see only `project` (lower-case) sends."""
    name = project.strip().lower().encode()
    return f"{_PREFIX}.{_text(name)}.{_text(_sign(service_bearer, name))}"


def bearer_project(presented: str, service_bearer: str) -> str | None:
    """The project whose bearer `presented` is; None when it is nobody's."""
    try:
        prefix, name, signature = presented.split(".")
        project = _bytes(name)
        if prefix == _PREFIX and hmac.compare_digest(_bytes(signature), _sign(service_bearer, project)):
            return project.decode() or None
    except (ValueError, binascii.Error):
        return None
    return None


def _sign(service_bearer: str, project: bytes) -> bytes:
    return hmac.digest(service_bearer.encode(), _PURPOSE + project, "sha256")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
