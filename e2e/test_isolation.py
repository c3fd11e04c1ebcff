"""Pods are apart from each other and from the machine, whatever the tools in them try."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tiers

MEMORY = "deployment/agentops-memory"


def inside(cluster: Any, where: str, script: str) -> str:
    """What a shell in a pod of `agents` says to `script`."""
    return str(cluster.kubectl("exec", where, "-n", "agents", "--", "sh", "-c", script).stdout)


def test_a_pod_sees_neither_the_state_dir_nor_what_other_pods_mount(scripted: Any, daemon: str) -> None:
    agent = f"deployment/{daemon}"
    own = inside(scripted, agent, "cat $AGENT_TOKEN_FILE")
    token = inside(scripted, agent, "echo $AGENT_TOKEN_FILE").strip()
    assert own and token
    assert inside(scripted, MEMORY, f"test -e {token} || echo absent") == "absent\n"
    found = inside(scripted, MEMORY, "grep -rslF -- '" + own + "' /data /etc /home /run /tmp /var 2>/dev/null || true")
    assert found == "", "the agent's token is readable in the memory service's pod"
    if scripted.state_dir is not None:
        for where in (agent, MEMORY):
            assert inside(scripted, where, f"test -e {scripted.state_dir} || echo absent") == "absent\n"


def test_the_root_of_a_pod_is_read_only_and_its_volumes_are_not(scripted: Any, daemon: str) -> None:
    script = "for d in / /etc /usr /data /tmp; do touch $d/x 2>/dev/null && echo $d && rm $d/x; done; true"
    assert inside(scripted, f"deployment/{daemon}", script).split() == ["/data", "/tmp"]


def test_a_pod_sees_its_own_processes_only(scripted: Any, daemon: str) -> None:
    seen = inside(scripted, f"deployment/{daemon}", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    assert "runtime daemon" in seen
    assert not re.search(r"agentops (memory|operator|model|local)", seen)


def test_a_program_has_the_user_of_its_spec_and_no_capability(scripted: Any, daemon: str) -> None:
    for where in (f"deployment/{daemon}", MEMORY):
        told = inside(scripted, where, "id -u; id -g; grep -hE '^(Cap...|NoNewPrivs)' /proc/self/status")
        assert told.split()[:2] == ["65532", "65532"]
        assert set(re.findall(r"Cap(?:Prm|Eff|Amb):\t(\w+)", told)) == {"0" * 16}
        assert "NoNewPrivs:\t1" in told


def test_few_tests_are_exempt_in_tier_c_and_each_exists() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(tiers.EXEMPT_IN_C) <= 5
    for name in (*tiers.EXEMPT_IN_C, *tiers.SUBSET_IN_C):
        assert f"def {name}(" in text, name
