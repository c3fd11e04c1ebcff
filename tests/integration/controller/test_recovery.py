"""What an API server and its network can do to a manager, and how it is afterwards: a real manager over TLS.

Each test breaks something, looks at what readyz and the metrics say meanwhile, changes objects that the
manager cannot see, repairs it, and wants everything reconciled by the same manager that ran before. Its
clock runs twenty times as fast as ours, so that half a minute of backoff passes in a second and a half.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import pytest
from support.link import link
from support.plane import eventually

from agentops.controller import Builder, CacheOptions, Manager, ManagerOptions, Request, Scope
from agentops.kube.aiohttp_transport import AiohttpTransport
from agentops.kube.client import ApiClient
from agentops.kube.config import ClusterConfig, load_config
from agentops.kube.kinds import CONFIG_MAP, CRD, NAMESPACE, ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from agentops.local.apiserver import ADMIN, ApiServer, InProcessTransport, ServerOptions
from agentops.local.apiserver.shell import serve_tls, server_ssl_context
from agentops.local.pki import ensure_pki
from agentops.values.clock import SystemClock
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"
LOOPS = [pytest.param(("asyncio", {"use_uvloop": used}), id="uvloop" if used else "asyncio") for used in (False, True)]
SPEED = 20.0
UNFRESH_S = 10.0  # of the manager's clock
GROUP = "recovery.example.org"
GADGET = Kind(GROUP, "v1", "Gadget", "gadgets")
GADGETS = {
    "metadata": {"name": f"gadgets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
RBAC = "rbac.authorization.k8s.io"


class FastClock:
    """The machine's boot time, twenty times as fast."""

    def now(self):
        return datetime.now(UTC)

    def boottime(self):
        return time.monotonic() * SPEED

    async def sleep(self, seconds):
        await anyio.sleep(max(0.0, seconds) / SPEED)


def config_map(name, value="1", namespace="ns"):
    return {"metadata": {"name": name, "namespace": namespace}, "data": {"v": value}}


def gadget(name, value="1", namespace="ns"):
    return {"apiVersion": f"{GROUP}/v1", "kind": "Gadget", **config_map(name, value, namespace)}


class Subject:
    """The manager under test, with a controller that notes at which version it saw each object last."""

    def __init__(self, config, kind=CONFIG_MAP, *, clock=None, unfresh_after_s=UNFRESH_S, **options):
        self.kind = kind
        self.seen = {}
        self.manager = Manager(
            config,
            ManagerOptions(
                clock=clock or FastClock(),
                metrics_bind=f"{HOST}:0",
                probes_bind=f"{HOST}:0",
                unfresh_after_s=unfresh_after_s,
                **options,
            ),
        )
        self.controller = Builder(self.manager).named("subject").for_(kind).build(self.reconcile)
        self.live_reads = False
        self.ended = False

    async def reconcile(self, request):
        if self.live_reads:
            await self.manager.client.live.list_page(self.kind, request.namespace, limit=1)
        obj = await self.manager.client.try_get(self.kind, request.name, request.namespace)
        self.seen[request.namespace, request.name] = None if obj is None else obj["metadata"]["resourceVersion"]

    @asynccontextmanager
    async def running(self):
        async def run(*, task_status):
            await self.manager.run(task_status=task_status)
            self.ended = True

        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(30):
                await tasks.start(run)
            yield self
            assert not self.ended, "the manager ended by itself"
            tasks.cancel_scope.cancel()

    async def probe(self, path):
        (server,) = self.manager.bound.values()
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://{server}{path}")

    async def metric(self, name, **labels):
        """The sum of the samples that have these labels."""
        total = 0.0
        for line in (await self.probe("/metrics")).text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if all(have.get(label) == value for label, value in labels.items()):
                    total += float(found[3])
        return total

    async def unfresh_s(self):
        return await self.metric("informer_unfresh_seconds", resource=self.kind.plural)

    async def not_ready_because(self, text):
        """Wait until readyz says so. The process is alive all the while: a restart would not help."""

        async def says():
            ready = await self.probe("/readyz?verbose")
            assert "[-]freshness failed" in ready.text and text in ready.text, ready.text
            assert ready.status_code == 500
            return True

        await eventually(says, timeout_s=20)
        assert await self.unfresh_s() > UNFRESH_S
        assert (await self.probe("/healthz")).status_code == 200

    async def recovered(self, client, timeout_s=20.0):
        """Everything is as the server has it, was reconciled at that version, and nobody complains any more."""

        async def equal():
            there = {}
            for obj in await client.list(self.kind):
                metadata = obj["metadata"]
                there[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
            cached = {}
            for obj in await self.manager.client.list(self.kind, consistency="none"):
                metadata = obj["metadata"]
                cached[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
            assert cached == there
            assert {key: seen for key, seen in self.seen.items() if seen is not None} == there
            assert (await self.probe("/readyz?verbose")).status_code == 200
            assert await self.unfresh_s() == 0
            return True

        await eventually(equal, timeout_s=timeout_s)


class Plane:
    """An API server in this process behind a link that can be cut."""

    def __init__(self, server, wire, pki):
        self.server = server
        self.wire = wire
        self.pki = pki
        self.client = ApiClient(InProcessTransport(server, ADMIN))

    def config(self, token_file=None):
        return ClusterConfig(
            server=f"https://{HOST}:{self.wire.port}",
            ca_pem=self.pki.ca_pem,
            client_cert_pem=None if token_file else self.pki.admin_cert_pem,
            client_key_pem=None if token_file else self.pki.admin_key_pem,
            token_file=str(token_file) if token_file else None,
        )

    async def write_token(self, path, account="subject"):
        """A new ServiceAccount of that name, so that older tokens are refused, and its token."""
        await self.client.create(SERVICE_ACCOUNT, {"metadata": {"name": account, "namespace": "ns"}})
        answer = await self.client.create(
            SERVICE_ACCOUNT, {"spec": {}}, namespace="ns", name=account, subresource="token"
        )
        path.write_text(answer["status"]["token"])

    async def allow(self, namespace, account="subject"):
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]
        role = {"metadata": {"name": "reader", "namespace": namespace}, "rules": rules}
        await self.client.apply(ROLE, role)
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "ns"}
        about = {"apiGroup": RBAC, "kind": "Role", "name": "reader"}
        binding = {"metadata": {"name": "reader", "namespace": namespace}, "roleRef": about, "subjects": [subject]}
        await self.client.create(ROLE_BINDING, binding)

    async def forbid(self, namespace):
        await self.client.delete(ROLE_BINDING, "reader", namespace)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return ensure_pki(tmp_path_factory.mktemp("pki"), addresses=[HOST])


@pytest.fixture
async def plane(pki):
    sock = socket.create_server((HOST, 0))
    context = server_ssl_context(pki.server_cert_path, pki.server_key_path, pki.ca_pem)
    with ApiServer(ServerOptions(sa_key_pem=pki.sa_key_pem, crd_established_delay_s=0.0)) as server:
        server.bootstrap()
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            await tasks.start(partial(serve_tls, server, sock, context, grace_s=0.5))
            async with link(sock.getsockname()[1]) as wire:
                plane = Plane(server, wire, pki)
                for name in ("ns", "other"):
                    await plane.client.create(NAMESPACE, {"metadata": {"name": name}})
                yield plane
            tasks.cancel_scope.cancel()


async def change_all(client, kind=CONFIG_MAP, make=config_map):
    """Of kept, changed and gone: leave, change, delete; and make another."""
    await client.patch(kind, "changed", {"data": {"v": "2"}}, "ns")
    await client.delete(kind, "gone", "ns")
    await client.create(kind, make("new"))


async def create_three(client, kind=CONFIG_MAP, make=config_map):
    for name in ("kept", "changed", "gone"):
        await client.create(kind, make(name))


# the server's process


class ServerProcess:
    """`python -m benchmarks.apiserver`: its objects and history are in a file and survive a kill."""

    def __init__(self, directory):
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig.yaml"
        self._process = None

    async def start(self, port):
        self.kubeconfig.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.apiserver", str(self.directory), "--keep", "--port", str(port)]
        self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "NO_PROXY": HOST})
        await eventually(self.kubeconfig.exists, timeout_s=30)
        return await load_config(str(self.kubeconfig))

    async def kill(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await anyio.to_thread.run_sync(self._process.wait)
            self._process = None


@pytest.fixture
async def process(tmp_path):
    process = ServerProcess(tmp_path)
    try:
        yield process
    finally:
        await process.kill()


def free_port():
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


@asynccontextmanager
async def connected(config):
    async with AiohttpTransport(config) as transport:
        yield ApiClient(transport)


@pytest.mark.guarantee("RC1", "WA7", "WA12", "HM2")
async def test_killed_server_that_was_written_to_elsewhere_is_caught_up_with(process):
    """Between kill and restart the same state is served on another port, so that the manager sees nothing of it."""
    port, aside = free_port(), free_port()
    config = await process.start(port)
    async with connected(config) as client:
        await client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        await create_three(client)
    subject = Subject(config)
    async with subject.running():
        async with connected(config) as client:
            await subject.recovered(client)
        await process.kill()
        async with connected(await process.start(aside)) as client:
            await change_all(client)
        await process.kill()
        await subject.not_ready_because("configmaps")
        assert await subject.metric("rest_client_requests_total", code="<error>") > 0
        assert await subject.metric("informer_last_event_age_seconds", resource="configmaps") > UNFRESH_S
        subject.live_reads = True
        subject.controller.enqueue(Request("ns", "kept"))
        await eventually(lambda: subject.controller.statistics().errors > 0)

        async with connected(await process.start(port)) as client:
            await subject.recovered(client)
        assert subject.seen["ns", "gone"] is None
        assert await subject.metric("controller_runtime_reconcile_errors_total", controller="subject") > 0
        await eventually(lambda: subject.controller.statistics().queue.failing == 0)


@pytest.mark.guarantee("RC2", "WA12")
async def test_outage_of_five_seconds_costs_no_list_and_no_readiness(process):
    """With the machine's own clock and the default of five minutes until a process is not ready."""
    port = free_port()
    config = await process.start(port)
    async with connected(config) as client:
        await client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        await create_three(client)
    subject = Subject(config, clock=SystemClock(), unfresh_after_s=300.0, cache=CacheOptions(streaming_lists="never"))
    async with subject.running():
        async with connected(config) as client:
            await subject.recovered(client)
        lists = await subject.metric("informer_relists_total")
        await anyio.sleep(1.2)  # a watch that breaks within its first second is not trusted, and listed
        killed = time.monotonic()
        await process.kill()
        await anyio.sleep(5)  # the outage itself
        assert 0 < await subject.unfresh_s() <= time.monotonic() - killed
        assert await subject.metric("informer_watch_restarts_total", reason="refused") > 0
        assert (await subject.probe("/readyz")).status_code == 200, "not for every hiccup"
        async with connected(await process.start(port)) as client:
            await change_all(client)
            await subject.recovered(client)
        assert await subject.metric("informer_relists_total") == lists
        assert subject.seen["ns", "gone"] is None


# the server in this process, behind a link


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.guarantee("RC3", "WA9", "IN6")
@pytest.mark.parametrize("streaming", ["always", "never"])
async def test_history_that_expired_while_disconnected_is_listed_again(plane, streaming):
    await create_three(plane.client)
    subject = Subject(plane.config(), cache=CacheOptions(streaming_lists=streaming))
    subject.manager.cache.add_index(CONFIG_MAP, "v", lambda obj: [obj["data"]["v"]] if "data" in obj else [])
    async with subject.running():
        await subject.recovered(plane.client)
        lists = await subject.metric("informer_relists_total", resource="configmaps")
        await plane.wire.down()
        await change_all(plane.client)
        plane.server.store.compact(plane.server.store.revision)
        await subject.not_ready_because("configmaps")
        await plane.wire.up()
        await subject.recovered(plane.client)
        assert subject.seen["ns", "gone"] is None
        assert await subject.metric("informer_relists_total", resource="configmaps") == lists + 1
        by_value = await subject.manager.client.list(CONFIG_MAP, index=("v", "2"))
        assert [obj["metadata"]["name"] for obj in by_value] == ["changed"]


@pytest.mark.guarantee("RC4", "PY27", "CL13")
async def test_rotated_credential_is_read_when_the_old_one_is_refused(plane, tmp_path):
    token = tmp_path / "token"
    await create_three(plane.client)
    await plane.write_token(token)
    await plane.allow("ns")
    subject = Subject(plane.config(token), namespaces=("ns",))
    async with subject.running():
        await eventually(lambda: len(subject.seen) == 3)
        watches = subject.manager.cache.statistics()[0].reflector.watches

        await plane.client.delete(SERVICE_ACCOUNT, "subject", "ns")  # the watch that is open goes on, as on any server
        await plane.client.patch(CONFIG_MAP, "kept", {"data": {"v": "mid-watch"}}, "ns")
        mid = (await plane.client.get(CONFIG_MAP, "kept", "ns"))["metadata"]["resourceVersion"]
        await eventually(lambda: subject.seen["ns", "kept"] == mid)
        assert subject.manager.cache.statistics()[0].reflector.watches == watches

        await plane.wire.down()
        await plane.wire.up()
        await change_all(plane.client)
        await subject.not_ready_because("Unauthorized")
        assert await subject.metric("rest_client_requests_total", code="401") > 0

        before = token.read_text()
        await plane.write_token(token)
        assert token.read_text() != before
        await recovered_in(subject, plane, ("ns",))
        assert subject.seen["ns", "gone"] is None


@pytest.mark.guarantee("RC5", "IN24")
async def test_kind_that_was_deleted_and_made_again_is_followed_again(plane):
    async def establish():
        await plane.client.create(CRD, GADGETS)
        plane.server.custom.establish_now()

    await establish()
    await create_three(plane.client, GADGET, gadget)
    subject = Subject(plane.config(), GADGET)
    neighbour = []
    Builder(subject.manager).named("neighbour").for_(CONFIG_MAP).build(partial(note, neighbour))
    async with subject.running():
        await subject.recovered(plane.client)
        await plane.client.delete(CRD, GADGETS["metadata"]["name"])
        await eventually(lambda: set(subject.seen.values()) == {None})
        await subject.not_ready_because("gadgets")
        assert await subject.metric("rest_client_requests_total", code="404") > 0
        await plane.client.create(CONFIG_MAP, config_map("meanwhile"))
        await eventually(lambda: Request("ns", "meanwhile") in neighbour)

        await establish()
        await plane.client.create(GADGET, gadget("kept", "other"))
        await plane.client.create(GADGET, gadget("new"))
        await subject.recovered(plane.client)
        assert subject.seen["ns", "gone"] is None
        assert {name for (_, name), seen in subject.seen.items() if seen} == {"kept", "new"}


@pytest.mark.guarantee("RC6", "LI13", "CA4")
async def test_namespace_that_is_forbidden_for_a_while_holds_up_no_other(plane, tmp_path):
    token = tmp_path / "token"
    await plane.write_token(token)
    for namespace in ("ns", "other"):
        await plane.allow(namespace)
    await create_three(plane.client)
    await plane.client.create(CONFIG_MAP, config_map("elsewhere", namespace="other"))
    subject = Subject(plane.config(token), namespaces={"ns": Scope(), "other": Scope()})
    async with subject.running():
        await recovered_in(subject, plane, ("ns", "other"))
        await plane.forbid("ns")
        await plane.wire.down()  # a watch that is open goes on, so it has to be opened again
        await plane.wire.up()
        await change_all(plane.client)
        await subject.not_ready_because('configmaps is forbidden: User "system:serviceaccount:ns:subject"')
        assert await subject.metric("rest_client_requests_total", code="403") > 0
        await plane.client.patch(CONFIG_MAP, "elsewhere", {"data": {"v": "2"}}, "other")
        there = (await plane.client.get(CONFIG_MAP, "elsewhere", "other"))["metadata"]["resourceVersion"]
        await eventually(lambda: subject.seen["other", "elsewhere"] == there)
        assert subject.seen["ns", "gone"] is not None, "nothing of it can be seen"

        await plane.allow("ns")
        await recovered_in(subject, plane, ("ns", "other"))
        assert subject.seen["ns", "gone"] is None


class Some:
    """A client that lists some namespaces."""

    def __init__(self, client, namespaces):
        self._client, self._namespaces = client, namespaces

    async def list(self, kind):
        return [obj for namespace in self._namespaces for obj in await self._client.list(kind, namespace)]


async def recovered_in(subject, plane, namespaces):
    await subject.recovered(Some(plane.client, namespaces))


async def note(noted, request):
    noted.append(request)
