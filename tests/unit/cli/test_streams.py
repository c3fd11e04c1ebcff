"""Standard output that cannot be written, whatever the command."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = [("crds",), ("--help",), ("run", "--help"), ("--version",), ("local", "status", "--state-dir", "/nowhere")]


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize(
    ("redirection", "says"), [(">/dev/full", "cannot be written: No space left"), (">&-", "is closed")]
)
def test_output_that_cannot_be_written_is_one_line_and_exit_code_7(
    arguments: tuple[str, ...], redirection: str, says: str
) -> None:
    done = shell(f"{redirection}", *arguments)
    assert done.returncode == 7, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"agentops: standard output {says}")


def test_a_reader_that_went_away_hears_nothing() -> None:
    done = shell("| true; exit ${PIPESTATUS[0]}", "crds")
    assert (done.returncode, done.stderr) == (7, "")


def test_help_names_the_exit_codes() -> None:
    assert "7: standard output cannot be written" in " ".join(shell("", "--help").stdout.split())
    told = " ".join(shell("", "run", "--help").stdout.split())
    for words in ("5 lost or deleted", "6 the API server could not be reached or refused", "7 the answer could not"):
        assert words in told


def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = f'"$@" {redirection}'
    line = ["bash", "-c", command, "bash", sys.executable, "-m", "agentops", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)
