"""`agentops run` as a process, against a server that knows one agent and one run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

METADATA = {"name": "r", "namespace": "default", "resourceVersion": "1"}
DONE: dict[str, Any] = {
    "phase": "Succeeded",
    "output": "the answer",
    "conditions": [{"type": "Complete", "status": "True", "reason": "Succeeded", "message": "it answered"}],
}


class Server:
    """Takes a run and says that it has ended. `refuse` is the status for whoever makes one."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.prompts: list[str] = []
        self.refuse = 0

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            self.prompts.append(json.loads(body)["spec"]["prompt"])
            if self.refuse:
                message = "agentruns is forbidden: \x1b]0;owned\x07"
                return self.refuse, {"kind": "Status", "code": self.refuse, "reason": "Forbidden", "message": message}
            return 201, {"metadata": METADATA}
        if "/agentruns" in path:
            return 200, {"metadata": METADATA, "spec": {"agentRef": "a"}, "status": DONE}
        return 200, {"metadata": {"name": "a", "namespace": "default"}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    known = Server(tmp_path / "kubeconfig")
    with serving(known) as port:
        write_kubeconfig(known.kubeconfig, port)
        yield known


def test_the_answer_goes_to_standard_output(server: Server) -> None:
    done = run(server.kubeconfig, "a", "hi")
    assert (done.returncode, done.stdout) == (0, "the answer\n"), done.stderr


def test_an_answer_that_cannot_be_written_says_where_it_is(server: Server) -> None:
    done = run(server.kubeconfig, "-q", "a", "hi", redirection=">/dev/full")
    assert done.returncode == 7
    (line,) = done.stderr.splitlines()
    assert line.startswith("agentops: standard output cannot be written: No space left on device; the answer is kept")
    assert "agentrun/r of namespace default" in line


def test_without_standard_output_no_run_is_made(server: Server) -> None:
    done = run(server.kubeconfig, "a", "hi", redirection=">&-")
    assert (done.returncode, server.prompts) == (7, [])
    assert done.stderr == "agentops: standard output is closed; give it a file, or /dev/null\n"


def test_progress_nobody_can_read_does_not_end_the_run(server: Server) -> None:
    done = run(server.kubeconfig, "a", "hi", redirection="2>/dev/full")
    assert (done.returncode, done.stdout) == (0, "the answer\n")


def test_characters_an_object_cannot_hold_leave_the_prompt(server: Server) -> None:
    done = run(server.kubeconfig, "a", "-", stdin=b"log:\t\x1b[31mred\x7f\n\xff")
    assert done.returncode == 0
    assert server.prompts == ["log:\t\ufffd[31mred\ufffd\n\ufffd"]
    assert "control characters are replaced" in done.stderr


def test_a_server_that_refuses_is_no_failed_run(server: Server) -> None:
    server.refuse = 403
    done = run(server.kubeconfig, "a", "hi")
    assert done.returncode == 6
    assert "agentruns is forbidden: ^[]0;owned^G" in done.stderr


def test_a_server_that_is_not_there_is_no_failed_run(tmp_path: Path) -> None:
    write_kubeconfig(tmp_path / "kubeconfig", 1)
    done = run(tmp_path / "kubeconfig", "a", "hi")
    assert done.returncode == 6
    assert "Cannot connect" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_closed_standard_input_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "a", redirection="<&-")
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def run(
    kubeconfig: Path, *arguments: str, redirection: str = "", stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentops", "run", "--kubeconfig", str(kubeconfig), *arguments]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command], capture_output=True, input=stdin, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def serving(known: Server) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, answer = known.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield http.server_address[1]
        http.shutdown()
        thread.join()


def write_kubeconfig(path: Path, port: int) -> None:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
