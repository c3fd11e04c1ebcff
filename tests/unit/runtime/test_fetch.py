"""The SSRF guard, with a transport in place of the network."""

from __future__ import annotations

import gzip
import ipaddress
import tracemalloc
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.fetch import MAX_BYTES, FetchTool, is_public

pytestmark = pytest.mark.anyio

NAMES = {
    "public.test": ["93.184.216.34"],
    "other.test": ["93.184.216.35", "2606:2800:220:1::1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["93.184.216.34", "10.0.0.5"],
    "six.test": ["2606:2800:220:1::1"],
    "bücher.test": ["93.184.216.34"],
}


async def resolve(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        if host not in NAMES:
            raise OSError("no such host") from None
        return NAMES[host]


class Wire(httpx2.AsyncByteStream):
    """A body as it comes from the network, in one packet."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


def tool(handler: Callable[[httpx2.Request], httpx2.Response]) -> FetchTool:
    def answer(request: httpx2.Request) -> httpx2.Response:
        response = handler(request)
        if isinstance(response.stream, Wire):
            return response
        return httpx2.Response(response.status_code, headers=response.headers, stream=Wire(response.content))

    return FetchTool(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)), resolve=resolve)


def never(_: httpx2.Request) -> httpx2.Response:
    raise AssertionError("nothing may be sent")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://metadata.test/",
        "http://mixed.test/",
        "file:///etc/passwd",
        "gopher://public.test/",
        "http://user:pass@public.test/",
        "http://unknown.test/",
        "http:///nohost",
        "http://public.test:99999/",
        "http://[::1",
    ],
)
async def test_what_is_not_a_public_address_is_refused(url: str) -> None:
    with pytest.raises(ToolFault):
        await tool(never).run({"url": url})


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, text="hello", headers={"content-type": "text/plain"})

    output = await tool(handler).run({"url": "https://public.test/a?b=c#d"})
    assert output.text == "hello"
    assert output.metadata["statusCode"] == 200
    assert str(seen[0].url) == "https://93.184.216.34/a?b=c"
    assert seen[0].headers["host"] == "public.test"
    assert seen[0].extensions["sni_hostname"] == "public.test"


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://Bücher.test:8443/", "xn--bcher-kva.test:8443"), ("http://PUBLIC.test:80/", "public.test:80")],
)
async def test_a_name_goes_out_as_name_servers_know_it(url: str, host: str) -> None:
    output = await tool(lambda request: httpx2.Response(200, text=request.headers["host"])).run({"url": url})
    assert output.text == host


async def test_a_url_that_is_none_is_said() -> None:
    with pytest.raises(ToolFault, match="is not a valid URL"):
        await tool(never).run({"url": "http://public.test/a\x7fb"})


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/", "http://metadata.test/", "//metadata.test/x", "file:///etc/passwd"]
)
async def test_a_redirect_cannot_lead_inside(target: str) -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["host"] == "public.test"
        return httpx2.Response(302, headers={"location": target})

    with pytest.raises(ToolFault):
        await tool(handler).run({"url": "http://public.test/"})


async def test_public_redirects_are_followed_but_not_forever() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.headers["host"] == "public.test":
            return httpx2.Response(301, headers={"location": "http://other.test/next"})
        return httpx2.Response(200, text="there")

    output = await tool(handler).run({"url": "http://public.test/"})
    assert (output.text, output.metadata["finalUrl"]) == ("there", "http://other.test/next")
    endless = tool(lambda _: httpx2.Response(302, headers={"location": "/again"}))
    with pytest.raises(ToolFault, match="redirects more than"):
        await endless.run({"url": "http://public.test/"})


async def test_big_and_binary_bodies_are_bounded() -> None:
    output = await tool(lambda _: httpx2.Response(200, content=b"x" * (MAX_BYTES + 5))).run(
        {"url": "http://public.test/"}
    )
    assert "stopped after" in output.text
    with pytest.raises(ToolFault, match="not text"):
        await tool(lambda _: httpx2.Response(200, content=b"\0\1")).run({"url": "http://public.test/"})


def packed(data: bytes, encoding: str = "gzip") -> httpx2.Response:
    return httpx2.Response(200, headers={"content-encoding": encoding}, stream=Wire(data))


async def test_a_packed_body_is_unpacked_no_further_than_needed() -> None:
    url = {"url": "http://public.test/"}
    small = await tool(lambda _: packed(gzip.compress("añ".encode()))).run(url)
    assert small.text == "añ"
    bomb = gzip.compress(b"x" * (64 << 20))
    tracemalloc.start()
    output = await tool(lambda _: packed(bomb)).run(url)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "stopped after" in output.text
    assert peak < 8 * MAX_BYTES
    with pytest.raises(ToolFault, match="not gzip"):
        await tool(lambda _: packed(b"plain")).run(url)
    with pytest.raises(ToolFault, match="encoding 'br'"):
        await tool(lambda _: packed(b"plain", "br")).run(url)


async def test_an_error_status_is_an_error_result_with_its_body() -> None:
    with pytest.raises(ToolFault, match=r"HTTP 404\nnot here"):
        await tool(lambda _: httpx2.Response(404, text="not here")).run({"url": "http://six.test/"})


def test_public_is_what_the_internet_routes() -> None:
    for text in ("8.8.8.8", "2606:4700::1111"):
        assert is_public(ipaddress.ip_address(text))
    for text in (
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "fe80::1",
        "fd00::1",
        "224.0.0.1",
        "2002:7f00:1::",
        "240.0.0.1",
    ):
        assert not is_public(ipaddress.ip_address(text)), text
