from __future__ import annotations

import sys
from typing import Any

import pytest

from agentops.api.runtime_config import ProviderConfig, RuntimeConfig
from agentops.net.resolve import http_client
from agentops.runtime.errors import ConfigFault
from agentops.runtime.providers.factory import AdapterFactory, api_key_variable, resolve_model
from agentops.values.clock import LoopClock

LOCAL = ProviderConfig(name="local", base_url="http://x/v1")
CLOUD = ProviderConfig(name="cloud", base_url="http://y/v1")


def config(**fields: Any) -> RuntimeConfig:
    return RuntimeConfig(**{"providers": (LOCAL, CLOUD), "primary_model": "local/m", **fields})


@pytest.mark.parametrize(
    ("reference", "fields", "expected"),
    [
        ("cloud/m", {}, ("cloud", "m")),
        ("cloud/a/b", {}, ("cloud", "a/b")),
        ("m", {"providers": (LOCAL,)}, ("local", "m")),
        ("m", {"primary_provider": "cloud"}, ("cloud", "m")),
        ("meta/llama", {"primary_provider": "cloud"}, ("cloud", "meta/llama")),
        (
            "meta/llama",
            {"providers": (ProviderConfig(name="r", type="openrouter"),), "primary_provider": "r"},
            ("r", "meta/llama"),
        ),
    ],
)
def test_a_reference_is_split_at_the_first_slash(
    reference: str, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    found = resolve_model(reference, config(**fields), "primaryModel")
    assert (found.provider.name, found.model) == expected


@pytest.mark.parametrize(
    ("reference", "fields", "says"),
    [
        ("lokal/m", {}, "fix the prefix"),
        ("local/", {}, "no model"),
        ("", {}, "no model is set"),
        ("m", {}, "several providers are bound"),
        ("m", {"primary_provider": "gone"}, "primaryProvider: 'gone'"),
        ("m", {"providers": ()}, "no provider"),
    ],
)
def test_a_reference_that_leads_nowhere_names_the_field(reference: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigFault, match=says):
        resolve_model(reference, config(**fields), "primaryModel")


def test_the_key_variable_is_a_shell_name() -> None:
    assert api_key_variable(ProviderConfig(name="my-llm.v2")) == "MY_LLM_V2_API_KEY"
    assert api_key_variable(ProviderConfig(name="x", api_key_env="THEIRS")) == "THEIRS"


def test_a_fallback_that_cannot_be_built_is_left_out() -> None:
    factory = AdapterFactory({}, http_client, LoopClock(), lambda: "id")
    chain = factory.chain(config(fallback_models=("gone/x", "cloud/y")))
    assert [bound.label for bound in chain.models] == ["local/m", "cloud/y"]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_missing_package_is_one_sentence_with_the_fix(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    provider = ProviderConfig(name="p", type=kind, api_key_env="KEY")
    with pytest.raises(ConfigFault, match=rf"provider p: the {kind} package .*install agentops-platform\[runtime\]"):
        AdapterFactory({"KEY": "k"}, http_client, LoopClock(), lambda: "id").adapter(provider)


REAL = "sk-REALKEY-123"
UNSENDABLE = [
    (f"{REAL}\n# rotated 2026", "a line break"),
    (f"{REAL}\r\n{REAL}", "a line break"),
    (f"{REAL}\x00", "a control character"),
    (f"{REAL}\x7f", "a control character"),
    (f"{REAL}\u2013x", "a character outside ASCII"),
    (f"{REAL}ü", "a character outside ASCII"),
    (f"{REAL}\udcff", "a character outside ASCII"),
]


@pytest.mark.parametrize("kind", ["openaicompat", "openai", "openrouter", "anthropic"])
@pytest.mark.parametrize(("key", "held"), UNSENDABLE)
def test_a_key_no_header_can_carry_is_refused_without_being_told(kind: str, key: str, held: str) -> None:
    provider = ProviderConfig(name="p", type=kind, base_url="http://x/v1", api_key_env="KEY")
    with pytest.raises(ConfigFault, match=rf"environment variable KEY holds {held}, .*spec\.apiKeySecret") as caught:
        AdapterFactory({"KEY": key}, http_client, LoopClock(), lambda: "id").adapter(provider)
    assert "REALKEY" not in str(caught.value)


@pytest.mark.parametrize(("value", "held"), UNSENDABLE)
def test_a_header_that_cannot_be_sent_is_named_without_its_value(value: str, held: str) -> None:
    provider = ProviderConfig(name="p", base_url="http://x/v1", headers={"X-Gate": value})
    with pytest.raises(ConfigFault, match=rf"provider p: header X-Gate .*holds {held},") as caught:
        AdapterFactory({}, http_client, LoopClock(), lambda: "id").adapter(provider)
    assert "REALKEY" not in str(caught.value)


def test_an_organization_that_cannot_be_sent_is_named() -> None:
    provider = ProviderConfig(name="p", type="openai", api_key_env="KEY", organization="Münze")
    with pytest.raises(ConfigFault, match=r"spec\.config\.organization holds a character outside ASCII"):
        AdapterFactory({"KEY": "k"}, http_client, LoopClock(), lambda: "id").adapter(provider)


@pytest.mark.parametrize("name", ["Content-Length", "X Gate"])
def test_a_header_that_would_break_the_request_is_named(name: str) -> None:
    provider = ProviderConfig(name="p", base_url="http://x/v1", headers={name: "1"})
    with pytest.raises(ConfigFault, match=rf"provider p: header '{name}' \(spec.endpoint.headers\) (is not|says how)"):
        AdapterFactory({}, http_client, LoopClock(), lambda: "id").adapter(provider)
