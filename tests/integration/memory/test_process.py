"""The role as people and kubelets run it."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx2
import pytest
from support.roles import Role

NOTE = {"session_id": "s", "type": "decision", "title": "t", "project": "shop"}


def memory(tmp_path: Path, *more: str, env: dict[str, str] | None = None) -> Role:
    return Role("memory", "--listen", "127.0.0.1:0", "--db", str(tmp_path / "memory.db"), *more, env=env)


def test_kill_9_loses_no_acknowledged_write(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    with memory(tmp_path, "--insecure") as role:
        port = role.ready("memory.ready")["port"]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for n in range(50):
                answer = client.post("/observations", json=NOTE | {"content": f"row {n}"})
                acknowledged.append(answer.json()["id"])
            assert role.stop(signal.SIGKILL) == -signal.SIGKILL
    with memory(tmp_path, "--insecure") as role:
        port = role.ready("memory.ready")["port"]
        rows = httpx2.get(f"http://127.0.0.1:{port}/observations/recent?limit=1000").json()
    assert sorted(row["id"] for row in rows) == acknowledged


def test_sigterm_drains_and_exits_0(tmp_path: Path) -> None:
    with memory(tmp_path, "--insecure") as role:
        role.ready("memory.ready")
        assert role.stop() == 0
        role.ready("memory.stopped")


def test_insecure_says_so(tmp_path: Path) -> None:
    with memory(tmp_path, "--insecure") as role:
        role.ready("memory.insecure")


def refused(role: Role) -> str:
    """The one line of a role that ends at once with exit code 2."""
    with role:
        assert role.wait() == 2, role.output
    said = [line for line in role.lines if not line.startswith("{")]
    assert len(said) == 1, role.output
    return said[0]


def test_a_missing_token_is_one_line(tmp_path: Path) -> None:
    assert "--token-file" in refused(memory(tmp_path))


def test_a_token_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    line = refused(memory(tmp_path, env={"MEMORY_TOKEN_FILE": str(tmp_path / "nope")}))
    assert str(tmp_path / "nope") in line


def test_a_database_in_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    line = refused(memory(tmp_path, "--insecure", "--db", str(tmp_path / "no" / "memory.db")))
    assert str(tmp_path / "no" / "memory.db") in line


def test_a_database_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """/proc refuses new files even to root."""
    assert "/proc/memory.db" in refused(memory(tmp_path, "--insecure", "--db", "/proc/memory.db"))


def test_a_directory_in_place_of_the_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "memory.db").mkdir()
    assert "memory.db" in refused(memory(tmp_path, "--insecure"))


def test_a_bad_window_is_one_line(tmp_path: Path) -> None:
    assert "--dedupe-window" in refused(memory(tmp_path, "--insecure", "--dedupe-window", "soon"))


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with memory(tmp_path, "--insecure") as role:
        port = role.ready("memory.ready")["port"]
        line = refused(memory(tmp_path, "--insecure", "--listen", f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}" in line


def test_a_database_server_that_is_away_is_one_line_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    line = refused(memory(tmp_path, "--insecure", env={"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/x"}))
    assert "DATABASE_URL" in line
    assert "hunter2" not in line


def test_snapshots_of_a_database_server_are_refused(tmp_path: Path) -> None:
    role = memory(tmp_path, "--insecure", "--snapshot-dir", str(tmp_path), env={"DATABASE_URL": "postgresql:///x"})
    assert "--snapshot-dir" in refused(role)


def test_a_bad_retention_is_one_line(tmp_path: Path) -> None:
    assert "'discovery' is not TYPE=AGE" in refused(memory(tmp_path, "--insecure", "--retention", "discovery"))


def test_postgresql_in_place_of_the_file(tmp_path: Path, postgres: str) -> None:
    server = {"DATABASE_URL": postgres}
    project = f"p-{tmp_path.name}"
    for number in (1, 2):
        with memory(tmp_path, "--insecure", env=server) as role:
            ready = role.ready("memory.ready")
            with httpx2.Client(base_url=f"http://127.0.0.1:{ready['port']}") as client:
                row = NOTE | {"content": "蓝绿部署", "topic_key": "how", "project": project}
                saved = client.post("/observations", json=row)
                found = client.get("/search", params={"q": "部署", "project": project}).json()
                assert client.get("/readyz").text == "ok"
            assert role.stop(signal.SIGKILL if number == 1 else signal.SIGTERM) in (0, -signal.SIGKILL)
        assert (saved.status_code, saved.json()["revision_count"]) == (201, number)
        assert [hit["content"] for hit in found] == ["蓝绿部署"]
    assert ready["db"] == "postgresql"
    assert not (tmp_path / "memory.db").exists()
