"""How synchronous writes wait for webhooks.

A write reads, decides and stores in one step of the event loop, so that nothing comes between. A
webhook takes a while. So a write that needs one raises `Undecided`, which leaves everything as it was;
the server awaits `decide()`, which remembers the webhook's answer, and starts the request again. What
was decided for a state of the world that has changed meanwhile is asked again.
"""

from __future__ import annotations


class Undecided(Exception):
    """Control flow, not an error: somebody outside must be asked first."""

    async def decide(self) -> None:
        """Ask, and remember the answer. Raises ApiFailure when the answer is no, or does not come."""
        raise NotImplementedError
