"""Errors of this layer.

UsageError           a flag, an environment variable or a config file is wrong: one line, exit code 2
└── ListenError      the address cannot be listened on
RunError             what the role depends on has failed it: one log line, exit code 1
"""

from __future__ import annotations


class UsageError(Exception):
    """The role cannot start as asked. The message is the one line a person sees; it names the fix."""


class ListenError(UsageError):
    """The address cannot be listened on: taken, not local, or not permitted."""


class RunError(Exception):
    """The role cannot go on, and not for a defect of its own; the message says what failed. A traceback would not."""
