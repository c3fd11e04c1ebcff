"""Landlock, the kernel's sandbox for processes without privileges, as one call.

A thread that called `restrict` can reach no file but those of its rules, and neither can what it starts,
for ever. Source: linux/landlock.h and the kernel's userspace-api documentation. Three system calls, so
no package stands between them and us.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (1 << 16) - 1
"""Everything: reading, writing, making, removing, renaming."""

_SINCE = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""The rights a version knows; a rule may not name others. From version 5 on all of them."""
_SCOPES_SINCE = 6
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version of the interface, 0 where the kernel has none or a boot option switched it off."""
    try:
        return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """Bind the calling thread to `rules`: paths and the rights (`READ`, `WRITE`) on them and below them.

    Paths that are not there are passed over. From version 6 on the thread's processes cannot send signals
    to others either; other processes' environment and memory are closed to them in every version.
    Raises OSError; the thread must not be used then.
    """
    known = _SINCE.get(version(), WRITE)
    scoped = _SCOPE_SIGNAL | _SCOPE_ABSTRACT_UNIX if version() >= _SCOPES_SINCE else 0
    attributes = _Ruleset(known, 0, scoped)
    # An older kernel refuses a structure that is longer than the one it knows only if the rest is not zero.
    ruleset = _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & known)
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_A_FILE
        rule = _PathBeneath(rights, parent)
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _syscall(number: int, *arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)
