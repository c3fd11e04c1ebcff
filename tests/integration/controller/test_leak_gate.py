"""The leak gate lets no leak through, and no test that is clean fails by it."""

import subprocess
import sys
from pathlib import Path

LEAKS = """
import asyncio, socket, threading
import anyio, pytest
from support.leaks import _loop_gate, leak_gate

kept = []

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(60)))

@pytest.mark.anyio
async def test_socket_of_a_loop():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_socket():
    kept.append(socket.socketpair())

def test_thread():
    threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

@pytest.mark.anyio
async def test_clean():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        await anyio.to_thread.run_sync(str)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1"):
        pass

def test_clean_too():
    thread = threading.Thread(target=str)
    thread.start()
    with socket.socket():
        thread.join()
"""


def test_gate_fails_every_kind_of_leak_and_nothing_else(tmp_path):
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rEfp", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    failed = {test.rpartition("::")[2] for test in errors}
    assert failed == {"test_task", "test_socket_of_a_loop", "test_socket", "test_thread"}, done.stdout
    assert "thread forgotten" in done.stdout
    assert "task Task-" in done.stdout
    assert "6 passed" in done.stdout
