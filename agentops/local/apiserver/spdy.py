"""The part of SPDY/3.1 that port-forward is made of: frames and header blocks, no I/O.

kubectl tunnels one SPDY connection through a WebSocket. Control frames are `0x8003, type u16, flags u8 + length
u24`, data frames `stream u32, flags u8 + length u24`. Header blocks share one zlib stream per direction.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

from attrs import frozen

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
MAX_FRAME = 1024 * 1024
"""Bytes of one frame; more than any client sends (kubectl: 32 KiB)."""
_MAX_HEADERS = 16 * 1024

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(w)) + w.replace("_", " ").encode() for w in _WORDS.split()) + _TAIL.encode()
"""The preset zlib dictionary of the SPDY/3 specification."""


class SpdyError(ValueError):
    """The peer does not speak SPDY/3.1; nothing after it can be trusted."""


@frozen(slots=True)
class Frame:
    """A control frame (`kind` is its type) or a data frame (`kind` 0). `stream` is 0 where there is none."""

    kind: int
    stream: int
    fin: bool
    payload: bytes
    """Of SYN_STREAM and SYN_REPLY the compressed header block, else what follows the frame header."""


class FrameReader:
    """Cuts a byte stream into frames; a message of the WebSocket may hold any slice of it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes; at most {MAX_FRAME} are read")
            if len(self._buffer) < 8 + length:
                return
            body = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            fin = bool(flags & FIN)
            if not first & 0x80000000:
                yield Frame(0, first, fin, body)
                continue
            if first >> 16 != 0x8003:
                raise SpdyError(f"control frame of version {first >> 16 & 0x7FFF}; this is SPDY/3")
            yield _control(first & 0xFFFF, fin, body)


def _control(kind: int, fin: bool, body: bytes) -> Frame:
    skipped = {SYN_STREAM: 10, SYN_REPLY: 4}.get(kind, 0)
    if kind not in (SYN_STREAM, SYN_REPLY, RST_STREAM):
        return Frame(kind, 0, fin, body)
    if len(body) < max(skipped, 4):
        raise SpdyError(f"a control frame of type {kind} with {len(body)} bytes is too short")
    return Frame(kind, int.from_bytes(body[:4]) & 0x7FFFFFFF, fin, body[skipped:])


class HeaderCodec:
    """Header blocks of one connection, both directions. Blocks must be decoded, and sent, in order."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        """Names in lower case. Raises SpdyError."""
        try:
            plain = self._inflate.decompress(block, _MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"header block: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"header block of more than {_MAX_HEADERS} bytes")
        try:
            (count,) = struct.unpack_from(">I", plain)
            position, words = 4, []
            for _ in range(2 * min(count, _MAX_HEADERS)):
                (length,) = struct.unpack_from(">I", plain, position)
                position += 4 + length
                if position > len(plain):
                    raise SpdyError("header block: a value is longer than the block")
                words.append(plain[position - length : position].decode("latin-1"))
        except struct.error as error:
            raise SpdyError(f"header block: {error}") from error
        return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)}

    def encode(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for pair in headers.items():
            for word in pair:
                plain += struct.pack(">I", len(word)) + word.encode("latin-1")
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    """The bytes of a control frame."""
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def data(stream: int, payload: bytes, *, fin: bool = False) -> bytes:
    """The bytes of a data frame."""
    return struct.pack(">II", stream, fin << 24 | len(payload)) + payload
