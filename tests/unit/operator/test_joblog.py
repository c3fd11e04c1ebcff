"""Finding the result in a stream of log bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.operator.joblog import last_marked_line

pytestmark = pytest.mark.anyio
MARK = b"{R"


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_the_last_marked_line_is_found_however_the_stream_is_cut(size: int) -> None:
    data = b"log\n{R first}\n{Rx second}\n{ other\nend"
    assert await last_marked_line(chunks(data, size), MARK) == b"{Rx second}\n"


async def test_a_last_line_without_newline_counts() -> None:
    assert await last_marked_line(chunks(b"a\n{R last}", 4), MARK) == b"{R last}"


async def test_a_log_without_it_has_none() -> None:
    assert await last_marked_line(chunks(b"a\nb {R\n", 3), MARK) is None


@given(st.lists(st.sampled_from([b"{R a}", b"{R", b"{", b"log", b""]), max_size=6), st.integers(1, 9))
def test_it_agrees_with_splitting_the_whole(lines: list[bytes], size: int) -> None:
    import anyio

    data = b"".join(line + b"\n" for line in lines)
    expected = next((line + b"\n" for line in reversed(lines) if line.startswith(MARK)), None)

    async def find() -> bytes | None:
        return await last_marked_line(chunks(data, size), MARK)

    assert anyio.run(find) == expected
