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
