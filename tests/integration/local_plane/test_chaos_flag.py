"""`agentops local up --chaos`: faults that a person can ask for."""

from pathlib import Path

import pytest
from support.plane import agentops, plane_process


def test_faults_begin_when_the_plane_is_ready_and_hit_whom_they_name(tmp_path: Path) -> None:
    spec = "seed=3; error verb=list resource=configmaps namespace=default code=503"
    with plane_process(tmp_path / "state", "--chaos", spec) as plane:
        refused = plane.kubectl("get", "configmaps", "-n", "default", check=False)
        assert refused.returncode != 0
        assert "injected: ServiceUnavailable" in refused.stderr
        assert plane.kubectl("get", "configmaps", "-n", "kube-system").returncode == 0
        assert "chaos.fault" in plane.log


@pytest.mark.parametrize("how", [(), ("--detach",)])
def test_text_that_is_not_understood_ends_at_once_with_one_line(tmp_path: Path, how: tuple[str, ...]) -> None:
    result = agentops("local", "up", *how, "--state-dir", str(tmp_path / "state"), "--chaos", "explode", check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("agentops: --chaos: 'explode': there is no fault 'explode'; there are delay, throttle")
