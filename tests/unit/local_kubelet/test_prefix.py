"""Tier C: paths by prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from support.kubelet import make_pod

from agentops.local.kubelet.prefix import PrefixSandbox
from agentops.local.kubelet.sandbox import Box, Mount

SANDBOX = PrefixSandbox(uid=1000)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    (tmp_path / "vol").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config.json").write_text("{}")
    mounts = (Mount("/data", tmp_path / "vol"), Mount("/etc/operator", tmp_path / "etc", read_only=True))
    box = Box(tmp_path / "pod", "main", mounts)
    SANDBOX.build(box)
    return box


def test_every_mount_is_found_below_the_root(box: Box) -> None:
    root = Path(SANDBOX.root(box))
    assert (root / "etc/operator/config.json").read_text() == "{}"
    (root / "data/x").write_text("y")
    assert (box.mounts[0].source / "x").read_text() == "y"
    assert (root / "dev/termination-log").is_file()


def test_a_new_start_has_a_fresh_root_and_the_same_volumes(box: Box) -> None:
    root = Path(SANDBOX.root(box))
    (root / "data/kept").write_text("y")
    (root / "scratch").write_text("z")
    SANDBOX.build(box)
    assert (root / "data/kept").exists()
    assert not (root / "scratch").exists()


def test_a_mount_inside_another_volume_is_made_again_at_each_start(box: Box, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    nested = evolve(box, mounts=(*box.mounts, Mount("/data/cache", tmp_path / "inner")))
    for _ in range(2):
        SANDBOX.build(nested)
        assert (Path(SANDBOX.root(nested)) / "data/cache").resolve() == tmp_path / "inner"


@pytest.mark.parametrize(
    ("word", "rewritten"),
    [
        ("/data", True),
        ("/data/file", True),
        ("--out=/data/x", True),
        ("cat /etc/operator/config.json > /data/y", True),
        ("/database", False),
        ("/var/data", False),
        ("file:///data", False),
        ("./data", False),
    ],
)
def test_literal_mount_paths_are_rewritten_and_nothing_else(box: Box, word: str, rewritten: bool) -> None:
    command = SANDBOX.command(box, ["sh", "-c", word], {"V": word})
    assert (SANDBOX.root(box) in command.argv[2]) is rewritten
    assert (SANDBOX.root(box) in command.env["V"]) is rewritten


def test_a_program_that_knows_the_root_gets_its_arguments_as_written(box: Box) -> None:
    aware = evolve(box, root_aware=True)
    env = {"PROMPT": "look into /data please", "WORKSPACE": "/data"}
    command = SANDBOX.command(aware, ["agentops", "--dir=/data"], env)
    assert command.argv == ("agentops", "--dir=/data")
    assert command.env["PROMPT"] == env["PROMPT"]
    assert command.env["WORKSPACE"] == SANDBOX.root(aware) + "/data"


def test_a_command_executed_beside_it_is_always_rewritten(box: Box) -> None:
    aware = evolve(box, root_aware=True)
    command = SANDBOX.exec_command(aware, ["cat", "/etc/operator/config.json"], {}, leader=1)
    assert command.argv[1] == SANDBOX.root(aware) + "/etc/operator/config.json"


def test_things_of_the_machine_are_never_rewritten(box: Box) -> None:
    machine = evolve(box, literal=frozenset({"/data/venv/python"}))
    command = SANDBOX.command(machine, ["/data/venv/python"], {"CERTS": "/data/venv/python"})
    assert command.argv == ("/data/venv/python",)
    assert command.env["CERTS"] == "/data/venv/python"


def test_home_and_temporary_files_are_the_containers_own(box: Box) -> None:
    env = SANDBOX.command(box, ["x"], {"HOME": "/tmp"}).env
    assert env["HOME"] == env["TMPDIR"] == SANDBOX.root(box) + "/tmp"
    assert env["AGENTOPS_ROOT"] == SANDBOX.root(box)


def test_the_working_directory_is_mapped_and_defaults_to_the_root(box: Box) -> None:
    assert SANDBOX.command(box, ["x"], {}).cwd == Path(SANDBOX.root(box))
    there = evolve(box, working_dir="/srv/app")
    assert SANDBOX.command(there, ["x"], {}).cwd == Path(SANDBOX.root(box)) / "srv/app"


def test_what_is_not_enforced_is_listed_by_field_and_container() -> None:
    pod = make_pod(
        {"name": "a", "securityContext": {"readOnlyRootFilesystem": True}, "resources": {"limits": {"cpu": "1"}}},
        securityContext={"runAsNonRoot": True, "runAsUser": 65532},
    )
    assert PrefixSandbox(uid=0).unenforced(pod) == [
        "runAsNonRoot (a)", "runAsUser (a)", "readOnlyRootFilesystem (a)", "resources.limits.cpu (a)",
    ]  # fmt: skip
    assert "runAsNonRoot (a)" not in PrefixSandbox(uid=1000).unenforced(pod)
