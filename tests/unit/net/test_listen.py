import socket

import pytest

from agentops.net.errors import ListenError, UsageError
from agentops.net.listen import ListenAddress, bind


@pytest.mark.parametrize(
    ("text", "host", "port"), [(":4096", "", 4096), ("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:1", "::1", 1)]
)
def test_go_style_addresses_are_read(text: str, host: str, port: int) -> None:
    assert ListenAddress.parse(text, {}) == ListenAddress(host, port)


@pytest.mark.parametrize("text", ["4096", "::1:80", "host:", ":http", ":70000", ":\u00b2", ":\uff17", ""])
def test_a_bad_address_is_quoted_back(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ListenAddress.parse(text, {})
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "host"), [(":1", "127.64.0.9"), ("0.0.0.0:1", "127.64.0.9"), ("10.0.0.1:1", "10.0.0.1")]
)
def test_only_a_wildcard_host_is_replaced(text: str, host: str) -> None:
    assert ListenAddress.parse(text, {"AGENTOPS_BIND_HOST": "127.64.0.9"}).host == host


def test_a_taken_port_is_one_line_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: the port is taken"):
            bind(ListenAddress("127.0.0.1", port))


def test_a_foreign_host_is_refused() -> None:
    with pytest.raises(ListenError, match="not an address of this machine"):
        bind(ListenAddress("192.0.2.1", 0))


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_an_answer_in_two_parts_does_not_wait_for_the_peers_acknowledgement(host: str) -> None:
    with bind(ListenAddress(host, 0)) as listening:
        listening.setblocking(True)
        with socket.create_connection(("127.0.0.1", listening.getsockname()[1])), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
