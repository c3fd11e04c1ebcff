"""Two operators: both serve, one leads, and the other takes over; `python e2e/takeover.py` measures it at length."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from doomed_plane import DoomedPlane
from support.cuttable import CuttablePath
from takeover import LIMITS_S, Takeover

own_plane = pytest.mark.skipif("KUBECONFIG" in os.environ, reason="kills processes of a local plane of its own")

CUT_S = 10.0


def test_both_operators_serve_probes_and_metrics_and_one_leads(installed: Any) -> None:
    pods = installed.get("pods", "-l", "app.kubernetes.io/component=operator", namespace="agent-system")["items"]
    assert len(pods) == 2
    leading = []
    for pod in pods:
        proxied = f"/api/v1/namespaces/agent-system/pods/{pod['metadata']['name']}"
        assert installed.kubectl("get", "--raw", f"{proxied}:8081/proxy/readyz").stdout == "ok"
        metrics = installed.kubectl("get", "--raw", f"{proxied}:8080/proxy/metrics").stdout
        leading.append('leader_election_master_status{name="agentops-operator"} 1.0' in metrics)
    assert sorted(leading) == [False, True]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoomedPlane]:
    plane = DoomedPlane(tmp_path_factory.mktemp("takeover"))
    try:
        plane.up()
        yield plane
    finally:
        plane.down()


@pytest.fixture(scope="module")
def path(plane: DoomedPlane) -> Iterator[CuttablePath]:
    """The way to the API server of the operator that leads first."""
    with CuttablePath("127.0.0.1", int(urlsplit(plane.url).port or 0)) as path:
        yield path


@pytest.fixture(scope="module")
def takeover(plane: DoomedPlane, path: CuttablePath) -> Iterator[Takeover]:
    cuttable = plane.path / "cuttable-kubeconfig"
    cuttable.write_text(plane.kubeconfig.read_text().replace(plane.url, f"https://127.0.0.1:{path.port}"))
    takeover = Takeover(plane)
    with takeover.operators(cuttable):
        yield takeover


@own_plane
def test_a_leader_cut_off_from_the_api_server_in_mid_turn_does_nothing_twice(
    takeover: Takeover, path: CuttablePath
) -> None:
    assert takeover.leader().name == "operator-1", "the one on the path that can be cut"
    takeover.start_run("cut-off")
    path.cut()
    time.sleep(CUT_S)
    path.heal()
    takeover.succeeds("cut-off")
    takeover.replace_ended()
    takeover.start_run("after-the-cut")
    takeover.succeeds("after-the-cut")
    assert takeover.twice() == []


@own_plane
@pytest.mark.parametrize("name", LIMITS_S)
def test_the_other_operator_takes_over_in_time_and_does_nothing_twice_after(takeover: Takeover, name: str) -> None:
    assert takeover.round(signal.Signals[name]) <= LIMITS_S[name]
    assert takeover.twice() == []
