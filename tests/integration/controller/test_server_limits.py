"""What callers cannot do to our HTTP servers, and what a second signal does."""

import signal
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx2
import pytest
from starlette.applications import Starlette

from agentops.controller import Manager, ManagerOptions
from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import health_routes, serve
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio

HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@asynccontextmanager
async def server(**options):
    sock = bind(ListenAddress.parse("127.0.0.1:0"))
    app = Starlette(routes=health_routes(Registry()))
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, app, sock, grace_s=1, **options))
        yield sock.getsockname()[1]
        tasks.cancel_scope.cancel()


async def everything(stream):
    """What comes until the other side closes."""
    found = b""
    with anyio.fail_after(10):
        try:
            while True:
                found += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return found


@pytest.mark.guarantee("HM6")
async def test_caller_that_never_ends_its_request_is_cut_off():
    async with server(header_timeout_s=0.3) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(HEAD)
        assert await everything(stream) == b""
    async with server(header_timeout_s=0.3) as port, await anyio.connect_tcp("127.0.0.1", port) as silent:
        assert await everything(silent) == b""


@pytest.mark.guarantee("HM6")
async def test_endless_header_is_refused():
    async with server() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(HEAD + b"x-long: ")
        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
            await stream.send(b"x" * (64 << 20))  # more than any socket buffers


@pytest.mark.guarantee("HM6")
async def test_idle_connection_ends_and_one_in_use_does_not():
    options = {"keep_alive_s": 1, "header_timeout_s": 0.3}
    async with server(**options) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(3):
            await stream.send(HEAD + b"\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
            await anyio.sleep(0.5)  # longer than a head may take, shorter than a connection may idle
        assert await everything(stream) == b""


@pytest.mark.guarantee("HM6")
async def test_servers_of_a_manager_have_gos_limits(monkeypatch):
    asked = []

    async def note(*args, task_status, **options):
        asked.append(options)
        task_status.started()
        await anyio.sleep_forever()

    monkeypatch.setattr("agentops.controller.httpservers.serve", note)

    class Nobody:
        host = "nobody"

    manager = Manager(Nobody(), ManagerOptions(probes_bind="127.0.0.1:0"))
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        tasks.cancel_scope.cancel()
    assert [options["keep_alive_s"] for options in asked] == [90]
    assert "header_timeout_s" not in asked[0], "the default of 32 s"


STUCK = textwrap.dedent(
    """
    import anyio
    from agentops.controller import Manager, ManagerOptions
    from agentops.net.serve import run_until_signal

    class Nobody:
        host = "nobody"

    async def main():
        manager = Manager(Nobody(), ManagerOptions(probes_bind="127.0.0.1:0", grace_s=600))

        async def work(*, task_status):
            print(manager.bound["probes"], flush=True)
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    print("stopping", flush=True)
                    await anyio.sleep(600)

        manager.add(work)
        await manager.run()

    run_until_signal(main)
    """
)


@pytest.mark.guarantee("MG8")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_process_at_once(second):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process, process.stdout as lines:
        try:
            address = lines.readline().strip()
            assert httpx2.get(f"http://{address}/healthz", trust_env=False).text == "ok"
            process.send_signal(signal.SIGTERM)
            assert lines.readline() == "stopping\n", "the first one asks"
            assert process.poll() is None
            told = time.monotonic()
            process.send_signal(second)
            assert process.wait(30) == 1
            assert time.monotonic() - told < 20, "not after the grace of ten minutes"
        finally:
            process.kill()


def test_a_signal_is_heeded_from_the_first_line_of_a_role_on():
    script = """
        import os, signal, anyio
        from agentops.net.serve import run_until_signal

        async def main():
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep(60)

        run_until_signal(main)
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=50)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.guarantee("MG12")
@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("LeaderElectionLost('taken')", 1, "role.ended"),
        ("CacheSyncTimeout('pods are forbidden')", 1, "pods are forbidden"),
        ("UsageError('give a name')", 2, "agentops: give a name"),
        ("ConfigError('no kubeconfig')", 2, "agentops: no kubeconfig"),
    ],
)
def test_an_end_that_is_no_defect_is_told_in_lines_and_not_in_a_traceback(raised, code, said):
    script = f"""
        from agentops.controller import CacheSyncTimeout, LeaderElectionLost, Manager
        from agentops.kube.errors import ConfigError
        from agentops.net.errors import UsageError
        from agentops.net.serve import run_until_signal
        from agentops.telemetry.logging import configure

        class Nobody:
            host = "nobody"

        async def fail(*, task_status):
            raise {raised}

        async def main():
            manager = Manager(Nobody())
            manager.add(fail)
            await manager.run()

        configure("json", "info")
        run_until_signal(main)
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=50)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_defect_is_raised_as_it_is_and_not_in_groups():
    script = """
        from agentops.net.serve import run_until_signal

        async def main():
            raise KeyError("x")

        run_until_signal(main)
        """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("KeyError: 'x'")
    assert "Group" not in ended.stderr
