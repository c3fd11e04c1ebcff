"""A fresh server in memory for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.apiserver import Api, ManualClock, make_server, serve_widgets

from agentops.local.apiserver import ApiServer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def server(clock: ManualClock) -> Iterator[ApiServer]:
    server = make_server(clock)
    yield server
    server.close()


@pytest.fixture
def api(server: ApiServer) -> Api:
    return Api(server)


@pytest.fixture
async def widgets(api: Api) -> Api:
    await serve_widgets(api)
    return api
