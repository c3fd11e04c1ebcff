"""Who takes part, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from attrs import frozen

from benchmarks.measure import versions_of

OURS = "agentops"


@frozen(slots=True)
class Contender:
    """One framework: its modules for each kind of work, empty when it cannot take part."""

    name: str
    widgets: str = ""
    ingest: str = ""
    packages: tuple[str, ...] = ()
    remark: str = ""

    def command(self, module: str, peer_python: str, *args: str) -> list[str]:
        """How to run `module`: ours with this interpreter, peers with theirs."""
        python = sys.executable if self.name == OURS else peer_python
        return [python, "-m", module, *args]


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "benchmarks.widgets", "benchmarks.ingest_ours"),
        Contender(
            "kopf",
            "benchmarks.peers.kopf_widgets",
            "benchmarks.peers.kopf_ingest",
            ("kopf", "aiohttp"),
            "raw event handlers and dicts, its cheapest equivalent",
        ),
        Contender(
            "informer",
            "benchmarks.peers.informer_widgets",
            "benchmarks.peers.informer_ingest",
            ("kubernetes", "urllib3"),
            "the official client's SharedInformer and threads",
        ),
        Contender(
            "lightkube",
            "benchmarks.peers.lightkube_widgets",
            "benchmarks.peers.lightkube_ingest",
            ("lightkube", "httpx2"),
            "a loop over list and watch with a dict; it has no informer",
        ),
    )
}


def chosen(text: str, peer_python: str) -> list[Contender]:
    """Contenders by comma separated names; peers only when `peer_python` is given. Raises ValueError."""
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"unknown contender {unknown[0]!r}; there are {', '.join(CONTENDERS)}")
    return [CONTENDERS[name] for name in names if name == OURS or peer_python]


def versions(contenders: Sequence[Contender], peer_python: str) -> dict[str, dict[str, str]]:
    """Installed versions of the peers."""
    return {c.name: versions_of(peer_python, c.packages) for c in contenders if c.packages and peer_python}
