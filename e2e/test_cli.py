"""The command line itself: what a person meets before any cluster."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROLES = ["operator", "runtime", "memory", "model", "local", "run", "crds", "lint"]


def agentops(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "agentops", *args], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_explains_itself(role: str) -> None:
    shown = agentops(role, "--help")
    assert shown.returncode == 0
    assert "Usage: " in shown.stdout


@pytest.mark.parametrize("role", ROLES)
def test_an_unknown_flag_is_one_clear_error(role: str) -> None:
    refused = agentops(role, "--no-such-flag")
    assert refused.returncode == 2
    assert "--no-such-flag" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_help_lists_the_roles() -> None:
    shown = agentops("--help").stdout
    for role in ROLES:
        assert f"  {role} " in shown
