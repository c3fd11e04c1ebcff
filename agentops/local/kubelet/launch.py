"""The last step before a container's program: runs in the child, then becomes the program.

Started by path (`python -I -S launch.py PLAN_FD`) so that it needs nothing but the standard library and costs
some ten milliseconds. A `preexec_fn` would run between fork and exec of a process with threads. The plan comes
through an anonymous file: environment and arguments of a container are nothing that `ps` should show, and an
environment such as LD_PRELOAD must have no effect before the program itself.

    plain     here ─────────────────────────────────────────────► exec
    kept      here ── fork ─────────────────────── the child ────► exec
                      └──── waits, ends all that is left of it, and ends as the child did
    wrapped   here ── exec the sandbox program ── here, within ─► exec
    joined    here ── enter namespaces, fork ──── the child ────► exec
                                            └──── waits, and ends as the child did

On the channel the process that becomes the program says `\\0`, by which the plane learns its pid, and waits for a
byte. The channel then closes by itself when the exec succeeds; any other message is why it did not.
"""

from __future__ import annotations

import _signal as signal  # without the enums of `signal`, which take a third of this program's time
import ctypes
import fcntl
import marshal
import os
import sys
import termios
import time
from _collections_abc import Iterator  # what `os` has loaded anyway

READY = b"\0"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_NAMESPACES = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS
_LAST_CAPABILITY = 63
_KEEP_S = 5.0
"""How long what a container leaves behind is chased from below it, before the plane does from above."""


class Plan:
    """What `starting.start` writes. Descriptors are numbers of this process, -1 for none."""

    parent: int
    channel: int
    join: int
    keep: bool
    tty: bool
    argv: list[str]
    env: dict[str, str]
    cwd: str
    wrapper: list[str]
    python: str
    launch: str

    def __init__(self, fields: dict[str, object]) -> None:
        vars(self).update(fields)


def main(plan_fd: int) -> None:
    plan = _load(plan_fd)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _guard(libc, plan.parent)
        if plan.wrapper:
            _wrap(plan)
        elif plan.join >= 0:
            _join(libc, plan)
        elif plan.keep:
            _keep(libc, plan)
        _become(plan)
    except FileNotFoundError:
        where = " in $PATH" if "/" not in plan.argv[0] else ""
        _fail(plan, f'exec: "{plan.argv[0]}": no such file or directory{where}')
    except OSError as error:
        _fail(plan, f'exec: "{plan.argv[0]}": {(error.strerror or str(error)).lower()}')


def _load(fd: int) -> Plan:
    with open(fd, "rb") as file:
        file.seek(0)
        return Plan(marshal.load(file))


def _store(value: bytes) -> int:
    """A descriptor that the next program inherits."""
    fd = os.memfd_create("plan", 0)
    with open(fd, "wb", closefd=False) as file:
        file.write(value)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _fail(plan: Plan, message: str) -> None:
    os.write(plan.channel, message.encode())
    os._exit(127)


def _guard(libc: ctypes.CDLL, parent: int) -> None:
    """Die with the plane, never get more rights, and make files as programs usually do."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        # The plane died before the line above: nobody would end this process.
        os._exit(137)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o022)


def _wrap(plan: Plan) -> None:
    """Become the sandbox program, which starts this file again within."""
    program, *options = plan.wrapper
    inner = {**vars(plan), "wrapper": [], "keep": False, "parent": 0}
    args = _store(b"".join(os.fsencode(option) + b"\0" for option in options))
    start = [plan.python, "-I", "-S", plan.launch, str(_store(marshal.dumps(inner)))]
    os.set_inheritable(plan.channel, True)
    os.execv(program, [program, "--args", str(args), "--", *start])


def _join(libc: ctypes.CDLL, plan: Plan) -> None:
    """Enter the namespaces behind a pidfd. Returns in a child; this process ends as the child does."""
    if libc.setns(plan.join, _NAMESPACES) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering the container failed: {os.strerror(number)}")
    os.close(plan.join)
    child = os.fork()
    if child != 0:
        os.close(plan.channel)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(128 - code if code < 0 else code)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Entering a user namespace gives every capability in it; the container's own program has none.
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _keep(libc: ctypes.CDLL, plan: Plan) -> None:
    """Stay behind as the parent of whatever leaves its own: a session and an environment can be shed, this cannot.

    Returns in the child; this process ends as the child did, after everything below it. SIGTERM ends it all at once.
    """
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    over = False

    def end(*_: object) -> None:
        if not over:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if plan.parent and os.getppid() != plan.parent:
        os.kill(child, signal.SIGKILL)
    for fd in (0, 1, 2, plan.channel):
        os.close(fd)
    status = 0
    while not over:
        # Looked at before it is collected: a SIGTERM in between still finds a process to kill, or is not needed.
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        over = ended.si_pid == child
        _, status = os.waitpid(ended.si_pid, 0)
    code = os.waitstatus_to_exitcode(status)
    give_up = time.monotonic() + _KEEP_S
    try:
        while time.monotonic() < give_up:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.0005)
    except ChildProcessError:
        pass
    os._exit(128 - code if code < 0 else code)


def _children() -> Iterator[int]:
    """Those of this process, the youngest first: some leave a successor behind faster than all can be looked at."""
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True):
        if _parent(pid) == os.getpid():
            yield pid


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _become(plan: Plan) -> None:
    channel = plan.channel
    os.set_inheritable(channel, False)
    if os.getsid(0) != os.getpid():
        os.setsid()
    if plan.tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.write(channel, READY)
    if not os.read(channel, 1):
        os._exit(137)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.makedirs(plan.cwd, exist_ok=True)
    os.chdir(plan.cwd)
    os.execvpe(plan.argv[0], plan.argv, plan.env)


if __name__ == "__main__":
    main(int(sys.argv[1]))
