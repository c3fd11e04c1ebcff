"""Real sockets: a small aiohttp server that misbehaves on purpose."""

import datetime
import gc
import socket
import ssl
import threading
import warnings
from contextlib import AsyncExitStack

import anyio
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentops.controller import Manager, ManagerOptions
from agentops.controller.certificates import self_signed, server_context
from agentops.kube import AiohttpTransport, ApiClient, ClusterConfig, aiohttp_transport
from agentops.kube.errors import NotFound, TransportError, Unauthorized
from agentops.kube.kinds import LEASE, POD

pytestmark = pytest.mark.anyio


class Server:
    def __init__(self):
        self.seen = []
        self.token = None
        self.release = anyio.Event()
        self.url = ""

    async def handle(self, request):
        self.seen.append(request)
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
        return await getattr(self, request.path.strip("/").split("/")[0])(request)

    async def api(self, request):
        if request.query.get("watch"):
            return await self.watch(request)
        return web.json_response({"kind": "Pod", "path": request.raw_path, "metadata": {}})

    async def apis(self, request):
        return web.json_response({"kind": "Lease"})

    async def late(self, request):
        """Judges the credentials of the request by what counts when it is answered."""
        if not self.release.is_set():
            await self.release.wait()
            return await self.handle(request)
        return web.Response()

    async def slow(self, request):
        await self.release.wait()
        return web.Response()

    async def cut(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":')
        request.transport.abort()
        return response

    async def watch(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"ADDED"}\n')
        await self.release.wait()
        return response


@pytest.fixture
async def server():
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.release.set()
    await runner.cleanup()


@pytest.fixture
async def transport(server):
    async with AiohttpTransport(ClusterConfig(server=server.url, token="t")) as transport:
        yield transport


async def test_requests_arrive_as_they_were_meant(server, transport):
    answer = await transport.request(
        "GET", "/api/v1/namespaces/ns/pods/a%2Fb", query=[("labelSelector", "a in (b,c)"), ("x", "ü&=")]
    )
    assert answer.status == 200
    (request,) = server.seen
    assert request.raw_path.startswith("/api/v1/namespaces/ns/pods/a%2Fb?")
    assert dict(request.query) == {"labelSelector": "a in (b,c)", "x": "ü&="}
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["accept-encoding"] == "identity"


async def test_error_statuses_are_answers_not_exceptions(server, transport):
    server.token = "other"
    assert (await transport.request("GET", "/api")).status == 401
    with pytest.raises(Unauthorized):
        await ApiClient(transport).get(POD, "a", "ns")


async def test_refused_connection_can_be_told_from_other_failures():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with AiohttpTransport(ClusterConfig(server=f"http://127.0.0.1:{port}")) as transport:
        with pytest.raises(TransportError) as caught:
            await transport.request("GET", "/api")
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        with pytest.raises(TransportError) as caught:
            async with transport.stream("GET", "/api"):
                pass
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.guarantee("CL17")
async def test_request_without_an_answer_ends_at_its_timeout(server, transport):
    with pytest.raises(TransportError, match="within the time allowed"):
        await transport.request("GET", "/slow", timeout_s=0.2)


@pytest.mark.guarantee("PY6")
async def test_stream_gives_slices_as_they_come_and_ends_after_silence(server, transport):
    async with transport.stream("GET", "/api/v1/pods", query=[("watch", "1")], idle_s=0.2) as answer:
        assert answer.status == 200
        chunks = answer.chunks()
        assert await anext(chunks) == b'{"type":"ADDED"}\n'
        with pytest.raises(TransportError, match="the stream broke"):
            await anext(chunks)


async def test_connection_reset_in_a_stream_is_a_transport_error(server, transport):
    async with transport.stream("GET", "/cut") as answer:
        with pytest.raises(TransportError):
            await drained(answer)


async def drained(answer):
    return [chunk async for chunk in answer.chunks()]


@pytest.mark.guarantee("WA20")
async def test_leaving_a_stream_early_closes_its_connection(server, transport):
    async with transport.stream("GET", "/api/v1/pods", query=[("watch", "1")]) as answer:
        async for _ in answer.chunks():
            break
    with anyio.fail_after(5):
        while not all(request.transport is None or request.transport.is_closing() for request in server.seen):
            await anyio.sleep(0.01)


@pytest.mark.guarantee("LE10", "PY7")
async def test_a_hundred_watches_and_full_requests_do_not_hold_up_a_lease(server):
    config = ClusterConfig(server=server.url)
    async with AiohttpTransport(config, max_connections=1) as transport, anyio.create_task_group() as tasks:

        async def watch(*, task_status):
            async with transport.stream("GET", "/api/v1/pods", query=[("watch", "1")]) as answer:
                async for _ in answer.chunks():
                    task_status.started()

        for _ in range(100):
            await tasks.start(watch)
        tasks.start_soon(transport.request, "GET", "/slow")
        with anyio.fail_after(10):
            while server.seen[-1].path != "/slow":
                await anyio.sleep(0.01)
        with anyio.fail_after(2):
            await transport.request("GET", LEASE.path("ns", "l"))
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("PY27")
async def test_rotated_token_file_is_read_again_after_a_401(server, tmp_path):
    file = tmp_path / "token"
    file.write_text("old\n")
    server.token = "old"
    async with AiohttpTransport(ClusterConfig(server=server.url, token_file=str(file))) as transport:
        assert (await transport.request("GET", "/api")).status == 200
        server.token = "new"
        assert (await transport.request("GET", "/api")).status == 401
        file.write_text("new")
        assert (await transport.request("GET", "/api")).status == 200
        assert len(server.seen) == 4, "one request was repeated once"
        server.token = "newer"
        file.write_text("newer")
        async with transport.stream("GET", "/api") as answer:
            assert answer.status == 200


@pytest.mark.guarantee("PY27")
async def test_token_file_is_read_again_after_a_while_without_a_401(server, tmp_path, monkeypatch):
    assert aiohttp_transport._TOKEN_MAX_AGE_S == 60
    file = tmp_path / "token"
    file.write_text("first")
    async with AiohttpTransport(ClusterConfig(server=server.url, token_file=str(file))) as transport:
        await transport.request("GET", "/api")
        file.write_text("second")
        await transport.request("GET", "/api")
        monkeypatch.setattr(aiohttp_transport, "_TOKEN_MAX_AGE_S", -1.0)
        await transport.request("GET", "/api")
    sent = [request.headers["authorization"] for request in server.seen]
    assert sent == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.guarantee("CL13")
async def test_refused_credentials_are_refreshed_once_for_all_requests(server):
    server.token = "fresh"
    refreshed = []

    async def refresh():
        refreshed.append(1)
        await anyio.sleep(0.05)
        return "Bearer fresh"

    config = ClusterConfig(server=server.url, authorization="Bearer stale", refresh=refresh)
    async with AiohttpTransport(config) as transport, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(transport.request, "GET", "/api")
    assert len(refreshed) == 1
    assert len(server.seen) == 10


@pytest.mark.guarantee("CL13")
async def test_request_that_is_refused_after_the_credentials_were_renewed_is_repeated_too(server):
    """It was on its way with the old ones, and there are no newer ones to ask for."""
    server.token = "stale"

    async def refresh():
        return "Bearer fresh"

    config = ClusterConfig(server=server.url, authorization="Bearer stale", refresh=refresh)
    async with AiohttpTransport(config) as transport, anyio.create_task_group() as tasks:
        answers = []

        async def early():
            answers.append((await transport.request("GET", "/late")).status)

        tasks.start_soon(early)
        with anyio.fail_after(5):
            while not server.seen:
                await anyio.sleep(0.01)
        server.token = "fresh"
        answers.append((await transport.request("GET", "/api")).status)
        server.release.set()
    assert answers == [200, 200]


async def test_everybody_is_told_whom_to_act_as(server):
    identity = (("Impersonate-User", "eve"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"))
    async with AiohttpTransport(ClusterConfig(server=server.url, impersonate=identity)) as transport:
        await transport.request("GET", "/api")
        async with transport.stream("GET", "/api"):
            pass
    for request in server.seen:
        assert request.headers["impersonate-user"] == "eve"
        assert request.headers.getall("impersonate-group") == ["a", "b"]


@pytest.mark.guarantee("PY27")
@pytest.mark.parametrize("content", [b"\xff\xfe", b"two\nlines"])
async def test_token_file_that_holds_no_token_is_no_answer(server, tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    async with AiohttpTransport(ClusterConfig(server=server.url, token_file=str(file))) as transport:
        with pytest.raises(TransportError):
            await transport.request("GET", "/api")


async def test_using_a_closed_transport_says_so(server):
    transport = AiohttpTransport(ClusterConfig(server=server.url))
    with pytest.raises(TransportError, match="async with"):
        await transport.request("GET", "/api")
    async with transport:
        await transport.request("GET", "/api")
    with pytest.raises(TransportError, match="async with"):
        await transport.request("GET", "/api")


def certificate(name, issuer=None):
    """A CA, or a leaf for 127.0.0.1; (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer:
        names = x509.SubjectAlternativeName([x509.DNSName("plane.local")])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(made):
    cert, key = made
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return cert.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.guarantee("PY26")
async def test_tls_verifies_the_server_and_shows_the_client_certificate(tmp_path):
    ca = certificate("ca")
    server_pem, client_pem = pem(certificate("server", ca)), pem(certificate("me", ca))
    (tmp_path / "server.pem").write_bytes(b"\n".join(server_pem))
    (tmp_path / "ca.pem").write_bytes(pem(ca)[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    who = []

    async def handle(request):
        who.append(dict(part[0] for part in request.get_extra_info("peercert")["subject"])["commonName"])
        return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    config = ClusterConfig(
        server=f"https://127.0.0.1:{runner.addresses[0][1]}",
        ca_pem=pem(ca)[0],
        client_cert_pem=client_pem[0],
        client_key_pem=client_pem[1],
        tls_server_name="plane.local",
    )
    try:
        async with AiohttpTransport(config) as transport:
            with pytest.raises(NotFound):
                await ApiClient(transport).get(POD, "a", "ns")
        assert who == ["me"]
        other_ca = pem(certificate("other"))[0]
        stranger = ClusterConfig(server=config.server, ca_pem=other_ca, tls_server_name="plane.local")
        async with AiohttpTransport(stranger) as transport:
            with pytest.raises(TransportError, match="certificate"):
                await transport.request("GET", "/api")
    finally:
        await runner.cleanup()


def test_a_watch_over_tls_is_gone_with_its_event_loop_even_if_the_peer_says_no_goodbye():
    pair = self_signed(["127.0.0.1"], datetime.datetime.now(datetime.UTC))
    context = server_context()
    pair.load_into(context)
    done = threading.Event()

    def serve(listener):
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
            done.wait(10)

    async def watch(url):
        async with (
            AiohttpTransport(ClusterConfig(server=url, insecure=True)) as transport,
            transport.stream("GET", "/api/v1/pods", query=[("watch", "1")]) as answer,
        ):
            return await anext(answer.chunks())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert anyio.run(watch, f"https://127.0.0.1:{listener.getsockname()[1]}") == b"{}"
            gc.collect()
        done.set()
        server.join()
    assert [str(w.message) for w in caught if w.category is ResourceWarning] == []


@pytest.mark.guarantee("MX3")
async def test_names_that_are_looked_up_are_measured_also_when_they_are_not_found(server):
    port = server.url.rpartition(":")[2]
    for name, found in (("localhost", True), ("nowhere.invalid", False)):
        manager = Manager(ClusterConfig(server=f"http://{name}:{port}"), ManagerOptions(rest_metrics=True))
        async with AsyncExitStack() as stack:
            await manager.cluster.open(stack)
            if found:
                await manager.client.live.raw("GET", "/api/v1/pods/a")
            else:
                with pytest.raises(TransportError):
                    await manager.client.live.raw("GET", "/api/v1/pods/a")
        assert manager.registry.value("rest_client_dns_resolution_duration_seconds_count", host=name) == 1
