from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROBLEM = "apiVersion: agents.agentops.io/v1alpha1\nkind: Agent\nmetadata: {name: a}\nspec: {}\n"


def test_a_file_that_is_no_text_does_not_keep_the_others_from_being_checked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "b.yaml").write_text(PROBLEM)
    done = lint("-f", str(tmp_path), "-f", str(tmp_path / "gone.yaml"))
    assert done.returncode == 2
    assert f"{tmp_path / 'b.yaml'}:" in done.stdout
    assert f"cannot read {tmp_path / 'a.yaml'}: not UTF-8 text (byte 10)" in done.stderr
    assert f"cannot read {tmp_path / 'gone.yaml'}: No such file" in done.stderr


def test_standard_input_that_is_no_text_is_one_line() -> None:
    done = lint("-f", "-", stdin=b"\xff")
    assert done.returncode == 2
    assert done.stderr == "agentops lint: cannot read <stdin>: not UTF-8 text (byte 1)\n"


def lint(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "agentops", "lint", *arguments]
    done = subprocess.run(line, capture_output=True, input=stdin, check=False)
    return subprocess.CompletedProcess(line, done.returncode, done.stdout.decode(), done.stderr.decode())
