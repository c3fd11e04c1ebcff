"""The fault matrix: whatever a server and a network do, in the end the cache is right and nothing was missed.

`hack/fault-matrix N` runs more seeds, and one again by its number.
"""

import pytest
from support import fault_model
from support.fault_model import CELLS, Broken, Cell, run_seed

from agentops.controller.consistency import WriteFence
from agentops.controller.informer import Informer
from agentops.controller.store import Store
from agentops.local.apiserver.chaos import Fault


@pytest.mark.parametrize("seed", range(len(CELLS)), ids=lambda seed: f"{seed}-{CELLS[seed]}")
def test_cell_of_the_matrix_ends_well(seed):
    run_seed(seed)


@pytest.mark.parametrize("seed", range(1000, 1050))
def test_random_faults_end_well(seed):
    run_seed(seed)


CELL = Cell(Fault.RESET_AFTER, "watch", "resume")


def fails(monkeypatch, cell=CELL):
    """What the model finds within a few seeds; waiting less, as it is lost anyway."""
    monkeypatch.setattr(fault_model, "WAIT_S", 100.0)
    for seed in range(30):
        try:
            run_seed(seed, cell)
        except Broken as error:
            return str(error)
    raise AssertionError("the model has not noticed in 30 seeds")


def test_model_notices_a_lost_deletion(monkeypatch):
    changed = Informer._changed
    monkeypatch.setattr(
        Informer, "_changed", lambda self, type, meta, raw: type == "DELETED" or changed(self, type, meta, raw)
    )
    assert "differs from the server" in fails(monkeypatch)


def test_model_notices_an_index_that_is_not_kept(monkeypatch):
    reindex = Store._reindex

    def once(self, name, key, obj):
        if key not in self._indexed[name]:
            reindex(self, name, key, obj)

    monkeypatch.setattr(Store, "_reindex", once)
    assert "instead of" in fails(monkeypatch)


def test_model_notices_a_change_that_nobody_is_told_of(monkeypatch):
    tell = Informer._tell

    def forgetful(self, event):
        if event.type != "update":
            tell(self, event)

    monkeypatch.setattr(Informer, "_tell", forgetful)
    assert "last reconciled at" in fails(monkeypatch)


def test_model_notices_a_deletion_that_a_relist_forgets(monkeypatch):
    replaced = Informer._replaced

    async def keeping(self, entries, version):
        listed = {entry.key for entry in entries}
        await replaced(self, [*entries, *(entry for entry in self.store.list() if entry.key not in listed)], version)

    monkeypatch.setattr(Informer, "_replaced", keeping)
    assert "differs from the server" in fails(monkeypatch, Cell(Fault.EXPIRE, "watch", "relist"))


def test_model_notices_a_fence_that_is_never_lowered(monkeypatch):
    monkeypatch.setattr(WriteFence, "_settle", lambda self, key: None)
    assert fails(monkeypatch)
