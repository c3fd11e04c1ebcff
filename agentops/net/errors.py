"""Errors of this layer.

UsageError           a flag, an environment variable or a config file is wrong: one line, exit code 2
└── ListenError      the address cannot be listened on
"""

from __future__ import annotations


class UsageError(Exception):
    """The role cannot start as asked. The message is the one line a person sees; it names the fix."""


class ListenError(UsageError):
    """The address cannot be listened on: taken, not local, or not permitted."""
