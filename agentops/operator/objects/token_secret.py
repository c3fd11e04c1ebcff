"""The Secrets `<agent>-token` and `<memory>-token`: a bearer, and for agents the salt of their digests.

Both values are made once. The salt is a key of its own and never mounted, so that a digest in an
annotation tells nobody which two agents share an API key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from agentops.kube.kinds import SECRET
from agentops.operator.objects.meta import manifest


def token_manifest(namespace: str, name: str, labels: Mapping[str, str], values: Mapping[str, str]) -> dict[str, Any]:
    """For creation only; `values` are plain text, at least 32 random bytes' worth each."""
    data = {key: encode(value) for key, value in sorted(values.items())}
    return manifest(SECRET, namespace, name, labels, type="Opaque", data=data)


def encode(text: str) -> str:
    """A value as Secret data has it."""
    return base64.b64encode(text.encode()).decode()
