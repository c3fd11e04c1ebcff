"""The tools config.json's `builtinTools` can switch on, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import httpx2

from agentops.runtime.tools.base import Tool
from agentops.runtime.tools.bash import BashTool
from agentops.runtime.tools.fetch import FetchTool
from agentops.runtime.tools.files import EditTool, LsTool, ReadTool, WriteTool
from agentops.runtime.tools.sandbox import Sandbox
from agentops.runtime.tools.search import GlobTool, GrepTool, find_ripgrep
from agentops.runtime.tools.workspace import Workspace
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.tools")

NAMES = ("bash", "read", "write", "edit", "ls", "grep", "glob", "fetch")


def builtin_tools(
    names: Sequence[str],
    *,
    workspace: Workspace,
    env: Mapping[str, str],
    http: httpx2.AsyncClient,
    clock: Clock,
    max_result_chars: int,
    variables: Collection[str] = (),
    sandbox: Sandbox | None = None,
) -> list[Tool]:
    """The tools of `names`, once each, in that order. Names that are no built-in are logged and left out.

    `variables` of `env` are the user's own, which commands may see.
    """
    tools: list[Tool] = []
    for name in dict.fromkeys(names):
        match name:
            case "bash":
                tools.append(BashTool(workspace, env, clock, max_result_chars, variables, sandbox))
            case "read":
                tools.append(ReadTool(workspace, sandbox))
            case "write":
                tools.append(WriteTool(workspace, sandbox))
            case "edit":
                tools.append(EditTool(workspace, sandbox))
            case "ls":
                tools.append(LsTool(workspace, sandbox))
            case "grep":
                tools.append(GrepTool(workspace, env, max_result_chars, find_ripgrep(env), sandbox))
            case "glob":
                tools.append(GlobTool(workspace, sandbox))
            case "fetch":
                tools.append(FetchTool(http))
            case _:
                log.warning("tools.unknown_builtin", tool=name, known=NAMES)
    return tools
