from pathlib import Path

import pytest

from agentops.net.paths import pod_path
from agentops.net.resolve import HostsFile, resolve


def test_the_resolve_file_answers_every_name_of_a_line(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.96.0.2 memory memory.agents memory.agents.svc  # a comment\n\n# nothing\n")
    environ = {"AGENTOPS_RESOLVE_FILE": str(hosts)}
    assert resolve("Memory.agents.svc.", environ) == "127.96.0.2"
    assert resolve("elsewhere.example", environ) == "elsewhere.example"
    assert resolve("memory", {}) == "memory"


def test_a_rewritten_file_is_read_again_and_a_missing_one_answers_as_before(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 a\n")
    hosts = HostsFile(path)
    assert hosts.lookup("a") == "127.0.0.1"
    replacement = tmp_path / "new"
    replacement.write_text("127.0.0.22 a\n")
    replacement.rename(path)
    assert hosts.lookup("a") == "127.0.0.22"
    path.unlink()
    assert hosts.lookup("a") == "127.0.0.22"


@pytest.mark.parametrize(
    ("path", "environ", "real"),
    [
        ("/data", {}, "/data"),
        ("/data", {"AGENTOPS_ROOT": "/p/rootfs"}, "/p/rootfs/data"),
        ("/p/rootfs/data", {"AGENTOPS_ROOT": "/p/rootfs"}, "/p/rootfs/data"),
        ("notes/a", {"AGENTOPS_ROOT": "/p/rootfs"}, "notes/a"),
    ],
)
def test_pod_paths_are_mapped_once(path: str, environ: dict[str, str], real: str) -> None:
    assert pod_path(path, environ) == Path(real)
