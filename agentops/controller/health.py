"""Named checks: alive, ready, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentops.telemetry.logging import get_logger

log = get_logger("controller.health")

Check = Callable[[], str | None]
"""None is passing, a text says what is wrong. Must not wait."""


class Checks:
    """Checks by name; one that raises fails with what it raised."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """Raises ValueError when the name is taken."""
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already")
        self._checks[name] = check

    def run(self) -> Mapping[str, str | None]:
        """Every check's answer; without any check there is `ping`."""
        return {name: _ask(name, check) for name, check in self._checks.items()} or {"ping": None}


def _ask(name: str, check: Check) -> str | None:
    try:
        return check()
    except Exception as error:
        log.exception("check.failed", check=name)
        return f"{type(error).__name__}: {error}"


def render(
    checks: Mapping[str, str | None], *, verbose: bool, exclude: tuple[str, ...] = (), probe: str = "healthz"
) -> tuple[int, str]:
    """Status and text of a probe's answer, in the API server's notation. Reasons are shown when asked for."""
    lines, failed = [], False
    for name, why in checks.items():
        if name in exclude:
            lines.append(f"[+]{name} excluded: ok")
        elif why is None:
            lines.append(f"[+]{name} ok")
        else:
            failed = True
            lines.append(f"[-]{name} failed: {why if verbose else 'reason withheld'}")
    if unknown := [f'"{name}"' for name in dict.fromkeys(exclude) if name not in checks]:
        lines.append(f"warn: some health checks cannot be excluded: no matches for {','.join(unknown)}")
    if failed:
        return 500, "\n".join([*lines, f"{probe} check failed"]) + "\n"
    return 200, "\n".join([*lines, f"{probe} check passed"]) + "\n" if verbose else "ok"
