"""Paths the model names, kept inside the workspace.

Every path is resolved through all symbolic links before it is compared, on a separator boundary, so
neither `..`, nor `/workspace2`, nor a link planted by an earlier command leads out.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import field, frozen

from agentops.runtime.errors import ToolFault


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


@frozen
class Workspace:
    """The directory the agent works in.

    `root` is where it really is; `declared` is what the agent is told (`/data`), which differs when a
    node maps pod paths. Absolute paths below `declared` mean the same below `root`.
    """

    root: Path = field(converter=_real)
    declared: str = "/data"

    def resolve(self, path: str) -> Path:
        """The real path of `path`, which need not exist. Raises ToolFault when it lies outside."""
        if "\0" in path:
            raise ToolFault("a path cannot contain a NUL byte")
        text = path or "."
        declared = self.declared.rstrip("/")
        if text == declared or text.startswith(declared + "/"):
            candidate = self.root / text[len(declared) :].lstrip("/")
        else:
            candidate = self.root / text
        real = Path(os.path.realpath(candidate))
        if real != self.root and self.root not in real.parents:
            raise ToolFault(f"{path} is outside the workspace {self.declared}; use a path inside it")
        return real

    def display(self, path: Path) -> str:
        """`path` relative to the workspace, `.` for the workspace itself."""
        return os.path.relpath(path, self.root)
