"""Certificates: self-signed, refused, rotated. In memory, without sockets."""

import ssl
from datetime import UTC, datetime

import anyio
import pytest

from agentops.controller.certificates import CertificateError, Pair, self_signed, server_context
from agentops.controller.certwatcher import CertWatcher
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC)


def handshake(context, ca_pem, host="webhook.test"):
    """The certificate that a client sees, which trusts `ca_pem`; raises ssl.SSLError as a client would."""
    client = ssl.create_default_context(cadata=ca_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server, server_hostname=host)
    server_side = context.wrap_bio(to_server, to_client, server_side=True)
    sides = [client_side, server_side]
    for _ in range(10):
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not sides:
            break
    return client_side.getpeercert()


@pytest.fixture
def files(tmp_path):
    return tmp_path / "tls.crt", tmp_path / "tls.key"


@pytest.fixture
def registry():
    return Registry()


def write(files, pair):
    files[0].write_bytes(pair.cert_pem)
    files[1].write_bytes(pair.key_pem)


def watcher_of(files, registry, clock=None):
    return CertWatcher(server_context(), *files, registry=registry, clock=clock, poll_s=10)


def test_a_self_signed_pair_is_its_own_authority_for_names_and_addresses():
    pair = self_signed(["webhook.test", "127.0.0.1"], NOW)
    context = server_context()
    pair.load_into(context)
    assert handshake(context, pair.cert_pem)["subjectAltName"] == (("DNS", "webhook.test"), ("IP Address", "127.0.0.1"))
    assert handshake(context, pair.cert_pem, "127.0.0.1")
    with pytest.raises(ssl.SSLError):
        handshake(context, pair.cert_pem, "other.test")


def test_a_key_that_does_not_fit_leaves_the_live_context_as_it_was():
    good, other = self_signed(["webhook.test"], NOW), self_signed(["webhook.test"], NOW)
    context = server_context()
    good.load_into(context)
    with pytest.raises(CertificateError, match="do not work together"):
        Pair(other.cert_pem, good.key_pem).load_into(context)
    assert handshake(context, good.cert_pem)


def test_missing_files_are_named(files, registry):
    with pytest.raises(CertificateError, match=r"tls\.crt: No such file"):
        watcher_of(files, registry).load()
    assert registry.value("certwatcher_read_certificate_errors_total") == 1


@pytest.mark.guarantee("WH7")
async def test_new_files_are_served_after_a_poll(files, registry, clock):
    first, second = self_signed(["webhook.test"], NOW), self_signed(["webhook.test"], NOW)
    write(files, first)
    watcher = watcher_of(files, registry, clock)
    assert watcher.load()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watcher.run)
        write(files, second)
        assert handshake(watcher.context, first.cert_pem)
        await anyio.sleep(11)
        assert handshake(watcher.context, second.cert_pem)
        with pytest.raises(ssl.SSLError):
            handshake(watcher.context, first.cert_pem)
        tasks.cancel_scope.cancel()
    assert registry.value("certwatcher_read_certificate_total") == 2
    assert registry.value("certwatcher_read_certificate_errors_total") == 0


@pytest.mark.guarantee("WH7")
async def test_a_bad_pair_keeps_the_old_one_is_counted_and_can_be_mended(files, registry, clock):
    first, second = self_signed(["webhook.test"], NOW), self_signed(["webhook.test"], NOW)
    write(files, first)
    watcher = watcher_of(files, registry, clock)
    watcher.load()
    async with anyio.create_task_group() as tasks:
        await tasks.start(watcher.run)
        files[0].write_bytes(second.cert_pem)  # half of the change
        await anyio.sleep(11)
        assert registry.value("certwatcher_read_certificate_errors_total") == 1
        files[0].write_bytes(b"garbage")
        await anyio.sleep(10)
        assert registry.value("certwatcher_read_certificate_errors_total") == 2
        assert handshake(watcher.context, first.cert_pem)
        write(files, second)
        await anyio.sleep(10)
        assert handshake(watcher.context, second.cert_pem)
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("WH7")
def test_a_swapped_symlink_is_noticed(tmp_path, registry):
    """As a mounted Secret changes: `..data` points to another directory."""
    pairs = [self_signed(["webhook.test"], NOW) for _ in range(2)]
    for index, pair in enumerate(pairs):
        (tmp_path / str(index)).mkdir()
        write((tmp_path / str(index) / "tls.crt", tmp_path / str(index) / "tls.key"), pair)
    data = tmp_path / "..data"
    data.symlink_to("0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    watcher = watcher_of((tmp_path / "tls.crt", tmp_path / "tls.key"), registry)
    assert watcher.load()
    assert not watcher.load(), "the same pair is not loaded again"
    (tmp_path / "..new").symlink_to("1")
    (tmp_path / "..new").rename(data)
    assert watcher.load()
    assert handshake(watcher.context, pairs[1].cert_pem)
