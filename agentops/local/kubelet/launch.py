"""The last step before a container's program: runs in the child, then becomes the program.

Started by path (`python -I -S launch.py …`) so that it needs nothing but the standard library and costs
some ten milliseconds. A `preexec_fn` would run between fork and exec of a process with threads.

    launch.py PARENT_PID ERROR_FD TTY CWD -- ARGV...

The environment is already the container's. A failed exec is written to ERROR_FD, which closes by
itself when the exec succeeds.
"""

import ctypes
import fcntl
import os
import signal
import sys
import termios

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main(argv: list[str]) -> None:
    parent, error_fd, tty, cwd = int(argv[0]), int(argv[1]), argv[2] == "1", argv[3]
    command = argv[5:]
    os.set_inheritable(error_fd, False)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # The plane died before the line above: nobody would end this process.
            os._exit(137)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        os.chdir(cwd)
        os.execvpe(command[0], command, os.environ)
    except FileNotFoundError as error:
        missing = error.filename if error.filename == cwd else command[0]
        where = " in $PATH" if "/" not in missing else ""
        os.write(error_fd, f'exec: "{missing}": no such file or directory{where}'.encode())
    except OSError as error:
        os.write(error_fd, f'exec: "{command[0]}": {(error.strerror or str(error)).lower()}'.encode())
    os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
