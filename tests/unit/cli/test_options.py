from __future__ import annotations

import subprocess
import sys

import orjson

CRASHING = """
import click
from agentops.cli.options import role_options
@click.command()
@role_options("agentops-test")
def role():
    raise RuntimeError("a defect")
role()
"""


def test_a_role_that_crashes_says_so_in_one_json_line_and_exits_1() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    said = orjson.loads(line)
    assert (said["event"], said["level"], said["role"]) == ("role.crashed", "error", "agentops-test")
    assert "RuntimeError: a defect" in said["traceback"]


def test_a_bad_flag_is_clicks_own_message_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, "--log-format", "yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--log-format" in done.stderr
