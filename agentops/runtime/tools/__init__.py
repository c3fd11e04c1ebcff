"""What the model may do: one file per family, one pipeline around all of them.

`base` is what a tool is, `box` runs calls (arguments checked, traced, counted, cut to size), `workspace`
keeps paths inside, `builtin` names the tools that config.json's `builtinTools` can switch on.
"""

from agentops.runtime.tools.base import Tool, ToolOutput
from agentops.runtime.tools.box import ToolBox, ToolOutcome

__all__ = ["Tool", "ToolBox", "ToolOutcome", "ToolOutput"]
