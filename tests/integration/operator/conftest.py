"""No test here may leave a task, a socket or a thread behind."""

from support.leaks import _loop_gate, leak_gate  # noqa: F401  fixtures
