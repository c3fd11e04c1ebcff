from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

import orjson
import pytest

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


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        (["memory", "--log-format", "yaml"], {}, ("agentops memory", "--log-format", "'json', 'text'")),
        (["memory", "--nope"], {}, ("agentops memory", "--nope")),
        (["runtime", "daemon", "--grace", "soon"], {}, ("agentops runtime daemon", "--grace", "soon")),
        (["nope"], {}, ("agentops", "nope")),
        (["--nope"], {}, ("agentops", "--nope")),
        (["run"], {}, ("agentops run", "AGENT")),
        (["memory", "--insecure"], {"OTEL_EXPORTER_OTLP_ENDPOINT": "tempo:4318"}, ("OTEL_EXPORTER_OTLP_ENDPOINT",)),
        (["operator", "--otel-endpoint", "tempo:4318"], {}, ("--otel-endpoint", "'tempo:4318'")),
    ],
)
def test_a_bad_flag_or_variable_is_one_line_that_names_it_and_exit_code_2(
    arguments: list[str], env: dict[str, str], named: tuple[str, ...]
) -> None:
    done = agentops(*arguments, env=env)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for words in named:
        assert words in line


def test_without_a_command_there_is_help() -> None:
    for arguments in ((), ("runtime",)):
        assert agentops(*arguments).stderr.startswith("Usage: ")


def test_help_names_the_variable_of_a_flag() -> None:
    shown = " ".join(agentops("memory", "--help").stdout.split())
    for variable in ("MEMORY_LISTEN", "MEMORY_DB_PATH", "MEMORY_DEDUPE_WINDOW", "DATABASE_URL", "AGENTOPS_LOG_FORMAT"):
        assert f"env var: {variable}" in shown


def agentops(*arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentops", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **env},
    )
