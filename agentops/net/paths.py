"""Where a pod path is on this machine.

In a container a mount path is what it says. A pod of the local plane without a file system of its
own has its mounts below `AGENTOPS_ROOT`; this is the only place that knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT_VAR = "AGENTOPS_ROOT"


def pod_path(path: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The real path of an absolute pod path; relative ones, and those already below the root, stay."""
    path = Path(path)
    root = environ.get(ROOT_VAR)
    if not root or not path.is_absolute() or path.is_relative_to(root):
        return path
    return Path(root) / path.relative_to("/")
