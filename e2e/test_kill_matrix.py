"""The most telling cells of the kill matrix; `python e2e/kill_matrix.py` runs them all (docs/kill-matrix.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from doomed_plane import DoomedPlane
from kill_matrix import CELLS, DISPATCH, EXPECTED, IDLE, TOOL, TURN, Matrix, manifests

pytestmark = pytest.mark.skipif("KUBECONFIG" in os.environ, reason="kills processes of a local plane of its own")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    directory: Path = tmp_path_factory.mktemp("doomed")
    plane = DoomedPlane(directory)
    try:
        plane.up()
        plane.install(*manifests())
        yield Matrix(plane)
    finally:
        plane.down()


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("agent-process", TOOL),
        ("agent-pod-forced", TURN),
        ("model", TURN),
        ("operators", DISPATCH),
        ("plane", TURN),
    ],
)
def test_a_run_ends_once_and_the_conversation_is_kept_when(matrix: Matrix, victim: str, moment: str) -> None:
    row = matrix.cell(victim, moment)
    assert not row.problems, "\n".join(row.problems)


def test_every_cell_says_what_is_expected() -> None:
    assert set(EXPECTED) == {(victim, moment) for victim, moment in CELLS if moment != IDLE}
