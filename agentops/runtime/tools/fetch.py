"""The `fetch` tool: a GET that cannot be turned against the cluster.

Each hop is resolved here, every address of the answer must be public, and the connection goes to the
very address that was checked (TLS still verifies the name), so neither a redirect nor a name server
that changes its answer leads to a private one.
"""

from __future__ import annotations

import ipaddress
import socket
import zlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, ToolOutput, schema

MAX_BYTES = 2 << 20
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0

_HEADERS = {"Accept": "text/*, application/json, */*;q=0.1", "Accept-Encoding": "gzip"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]


async def resolve_all(host: str, port: int) -> list[str]:
    """Every address of `host`."""
    rows = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


def is_public(address: Address) -> bool:
    """Neither loopback, private, link-local, shared, reserved nor multicast, nor one of these inside an IPv6 form."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and address.teredo is not None:
            return False
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class FetchTool:
    """`client` is owned by the caller and must not follow redirects by itself."""

    name = "fetch"
    kind = "builtin"
    parallel_safe = True
    description = "Fetch a public http or https URL and return its text. Internal addresses are refused."
    schema = schema({"url": {"type": "string", "description": "The address."}}, ("url",))

    def __init__(
        self,
        client: httpx2.AsyncClient,
        *,
        resolve: Resolver = resolve_all,
        allowed: Callable[[Address], bool] = is_public,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._client = client
        self._resolve = resolve
        self._allowed = allowed
        self._timeout_s = timeout_s

    async def run(self, arguments: Arguments) -> ToolOutput:
        url = arguments["url"].strip()
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise ToolFault(f"{url} did not answer within {self._timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise ToolFault(f"{url}: {str(error) or type(error).__name__}") from None

    async def _follow(self, url: str) -> ToolOutput:
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(current)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            try:
                location = response.headers.get("location")
                if response.is_redirect and location:
                    current = urljoin(current, location)
                    continue
                return await self._read(url, current, response)
            finally:
                await response.aclose()
        raise ToolFault(f"{url} redirects more than {MAX_REDIRECTS} times")

    async def _request(self, url: str) -> httpx2.Request:
        """A request to the checked address of `url`, still carrying the name."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ToolFault(f"{url} is not a valid URL: {error}") from None
        if parts.scheme not in ("http", "https"):
            raise ToolFault(f"{url}: only http and https can be fetched")
        if not host:
            raise ToolFault(f"{url} names no host")
        if parts.username is not None or parts.password is not None:
            raise ToolFault("a URL with credentials in it is not fetched")
        port = port or (443 if parts.scheme == "https" else 80)
        address = await self._checked_address(host, port)
        literal = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
        try:
            name = host.encode("idna").decode() if not host.isascii() else host
            request = self._client.build_request("GET", target, headers=_HEADERS)
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise ToolFault(f"{url} is not a valid URL: {error}") from None
        authority = f"[{name}]" if ":" in name else name
        request.headers["Host"] = f"{authority}:{parts.port}" if parts.port else authority
        if parts.scheme == "https":
            request.extensions = {**request.extensions, "sni_hostname": name}
        return request

    async def _checked_address(self, host: str, port: int) -> str:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise ToolFault(f"{host} cannot be resolved: {getattr(error, 'strerror', None) or error}") from None
        if not addresses:
            raise ToolFault(f"{host} has no address")
        for text in addresses:
            try:
                address = ipaddress.ip_address(text.partition("%")[0])
            except ValueError:
                raise ToolFault(f"{host} resolves to {text}, which is not an address") from None
            if not self._allowed(address):
                raise ToolFault(f"{host} is {address}, an internal address; only public addresses can be fetched")
        return addresses[0]

    async def _read(self, url: str, final: str, response: httpx2.Response) -> ToolOutput:
        content_type = response.headers.get("content-type", "")
        metadata = {"ui": "web-fetch", "url": url, "statusCode": response.status_code, "contentType": content_type}
        body = await _body(url, response)
        if final != url:
            metadata["finalUrl"] = final
        if b"\0" in body[:8192]:
            raise ToolFault(f"{url} is not text ({content_type or 'no content type'})", metadata)
        charset = response.charset_encoding or "utf-8"
        try:
            text = body[:MAX_BYTES].decode(charset, "replace")
        except LookupError:
            text = body[:MAX_BYTES].decode("utf-8", "replace")
        if len(body) > MAX_BYTES:
            text += f"\n\n[stopped after {MAX_BYTES} bytes]"
        if response.status_code >= 400:
            raise ToolFault(f"{url} answered HTTP {response.status_code}\n{text}", metadata)
        return ToolOutput(text or "(empty body)", metadata)


async def _body(url: str, response: httpx2.Response) -> bytes:
    """The first bytes of the body, one more than `MAX_BYTES` at the most.

    Unpacked here and not by the client, which would unpack a whole packet before anybody can count: a
    kilobyte of gzip can be a megabyte.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise ToolFault(f"{url} answers in the encoding {encoding[:40]!r}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in encoding else None
    body = bytearray()
    async with aclosing(response.aiter_raw(65536)) as chunks:
        async for chunk in chunks:
            room = MAX_BYTES + 1 - len(body)
            try:
                body += unpack.decompress(chunk, room) if unpack is not None else chunk[:room]
            except zlib.error as error:
                raise ToolFault(f"{url}: the body is not gzip although it says so: {error}") from None
            if len(body) > MAX_BYTES:
                break
    return bytes(body)
