"""The memory service killed while it is written to; `hack/kill-writes memory --kills N` does it more often."""

from __future__ import annotations

from pathlib import Path

from support.memory_kills import run


def test_kill_9_under_writes_loses_nothing_that_was_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    figures = run(tmp_path, kills=3)
    assert figures.problems == []
    assert figures.kills == 3
    assert figures.acknowledged > 0
