"""The plane killed under load; `hack/kill-writes plane --kills N` does it as often as you like."""

from __future__ import annotations

from pathlib import Path

import anyio
from support.plane_kills import run


def test_kill_9_under_load_loses_nothing_that_was_acknowledged_and_gives_no_revision_twice(tmp_path: Path) -> None:
    figures = anyio.run(run, tmp_path, 2)
    assert figures.problems == []
    assert figures.kills == 2
    assert figures.acknowledged > 0
    assert figures.resumed + figures.expired == 2, "each time the watch went on, or was told that it cannot"
