from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from agentops.runtime.providers.secrets import Secrets

KEY = "sk-REAL/123+\u2013ü"


@pytest.mark.parametrize(
    "said", [KEY, repr(KEY.encode()), ascii(KEY), json.dumps(KEY), quote(KEY), quote(KEY, safe="")]
)
def test_a_secret_is_taken_out_however_it_is_escaped(said: str) -> None:
    assert "REAL" not in Secrets([KEY]).out_of(f"the key {said} is wrong")


@pytest.mark.parametrize("said", ["{}", "first-line", "second-line", "first-line second-line"])
def test_every_line_of_a_secret_is_one(said: str) -> None:
    key = "first-line\nsecond-line"
    told = Secrets([key]).out_of("Illegal header value " + said.format(repr(f"Bearer {key}".encode())))
    assert "first" not in told
    assert "second" not in told


def test_what_stands_after_the_scheme_is_a_secret_of_its_own() -> None:
    assert Secrets(["Bearer abcdef"]).out_of("abcdef is over") == "… is over"


def test_what_is_too_short_for_a_secret_stays() -> None:
    assert Secrets(["a", ""]).out_of("a banana") == "a banana"
