"""What a person sees of a run that is followed: the answer as it is written on a terminal, progress beside it.

Everything shown comes from models, tools and the cluster, so on a terminal no character of it may act.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import click

from agentops.values.text import with_controls_shown, without_controls

TAKEN_UP_WITHIN_S = 8.0
"""An operator that runs takes up a run in a fraction of a second."""


class View:
    """`live` when standard output is a terminal: then the answer is shown as it grows; `quiet` leaves progress out."""

    def __init__(self, quiet: bool, live: bool) -> None:
        self._quiet = quiet
        self._live = live
        self._name = ""
        self._text = ""
        self._open = False
        self._created = anyio.Event()
        self._taken_up = False

    def created(self, name: str) -> None:
        self._name = f"agentrun/{name}"
        self.note(f"{self._name} created")
        self._created.set()

    async def remind(self) -> None:
        """Says so once when nobody has taken up the run in `TAKEN_UP_WITHIN_S`."""
        await self._created.wait()
        await anyio.sleep(TAKEN_UP_WITHIN_S)
        if not self._taken_up:
            self.note(
                f"nobody has taken up {self._name} in {TAKEN_UP_WITHIN_S:.0f} s: does the operator run? "
                "kubectl get pods -n agent-system"
            )

    def note(self, line: str) -> None:
        """A line of progress, on standard error."""
        if not self._quiet:
            self._close()
            say(click.style(with_controls_shown(line), dim=True))

    def phase(self, run: dict[str, Any]) -> None:
        status = run.get("status") or {}
        self._taken_up = self._taken_up or bool(status.get("phase") or status.get("conditions"))
        phase = status.get("phase") or "Pending"
        waiting = [c for c in status.get("conditions") or () if c.get("status") == "False" and c["type"] != "Complete"]
        why = f": {waiting[0].get('message')}" if waiting and phase in ("Pending", "Queued") else ""
        where = f" on {status['podName']}" if phase == "Running" and status.get("podName") else ""
        self.note(f"{phase}{where}{why}")

    def event(self, event: Any) -> None:
        data = event.data
        if event.type == "text_start":
            self._text = ""
        elif event.type == "text_reset":
            self._text = ""
            self.note("the answer starts again, from another model")
        elif event.type == "text_delta":
            self._text += data.get("delta", "")
            if self._live:
                self._open = True
                click.echo(with_controls_shown(data.get("delta", "")), nl=False)
        elif event.type == "tool_call":
            self.note(f"→ {data.get('tool_name')} {_short(data.get('input', ''))}")
        elif event.type == "tool_result":
            self.note(f"← {'error: ' if data.get('is_error') else ''}{_short(data.get('output', ''))}")
        elif event.type == "agent_error":
            self.note(f"error: {data.get('error')}")

    def finish(self, output: str) -> None:
        """Print the answer unless it already stands on the terminal whole."""
        self._close()
        if not self._live:
            click.echo(output, color=True)  # as it is: without it click takes escape sequences out
        elif without_controls(self._text).strip() != output.strip():
            click.echo(with_controls_shown(output))

    def _close(self) -> None:
        if self._open:
            click.echo()
            self._open = False


def say(line: str) -> None:
    """A line on standard error, which nobody may be reading."""
    with suppress(OSError):
        click.echo(line, err=True)


def _short(text: str, length: int = 100) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
