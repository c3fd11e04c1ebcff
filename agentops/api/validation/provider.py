"""The rules of a Provider: which settings go with which type, and how to be let in."""

from __future__ import annotations

from urllib.parse import urlsplit

from agentops.api.types.provider import TYPES, Provider, ProviderSpec
from agentops.api.validation import common
from agentops.api.validation.common import FieldError, forbidden, invalid, required
from agentops.values import headers


def validate_provider(provider: Provider) -> list[FieldError]:
    """Every error of the object by itself; whether its Secrets exist is the operator's to see."""
    spec = provider.spec
    return [
        *common.one_of("spec.type", spec.type, TYPES),
        *_endpoint(spec),
        *_auth(spec),
        *_config(spec),
        *common.call_defaults("spec.defaults", spec.defaults, spec.type if spec.type in TYPES else None),
        *_models(spec),
    ]


def needs_auth(spec: ProviderSpec) -> bool:
    """Whether a key or OAuth 2 must be there: not for openaicompat, bedrock and vertex."""
    return not (spec.type in ("openaicompat", "bedrock") or spec.config.bedrock or spec.config.vertex is not None)


def _endpoint(spec: ProviderSpec) -> list[FieldError]:
    endpoint = spec.endpoint
    errors = []
    if endpoint.base_url:
        errors += common.http_url("spec.endpoint.baseURL", endpoint.base_url) or _plain_url(endpoint.base_url)
    elif spec.type == "openaicompat":
        errors.append(
            required("spec.endpoint.baseURL", "openaicompat needs the URL of the API, such as http://host:8000/v1")
        )
    for name, value in sorted(endpoint.headers.items()):
        at = f"spec.endpoint.headers.{name}"
        if problem := headers.name_problem(name):
            errors.append(invalid(at, f"{name!r} {problem}"))
        if problem := headers.value_problem(value):
            errors.append(invalid(at, f"the value {problem}, which no HTTP header can carry"))
    plain = {name.lower() for name in endpoint.headers}
    for index, header in enumerate(endpoint.secret_headers):
        at = f"spec.endpoint.secretHeaders[{index}]"
        if problem := headers.name_problem(header.name):
            errors.append(invalid(f"{at}.name", f"{header.name!r} {problem}"))
        if header.name.lower() in plain:
            errors.append(common.duplicate(f"{at}.name", header.name))
        plain.add(header.name.lower())
        errors += common.secret_ref(f"{at}.secretRef", header.secret_ref.name, header.secret_ref.key)
    return errors


def _plain_url(url: str) -> list[FieldError]:
    """Paths are appended to it, and it is shown in conditions and errors."""
    at, parts = "spec.endpoint.baseURL", urlsplit(url)
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        detail = "it ends in a query or a fragment, and the path of each call comes after it; leave that out"
        return [invalid(at, detail)]
    if "@" in parts.netloc:
        detail = "it holds credentials, which everybody who reads the Provider sees; use apiKeySecret or secretHeaders"
        return [invalid(at, detail)]
    return []


def _auth(spec: ProviderSpec) -> list[FieldError]:
    key, oauth2 = spec.api_key_secret, spec.endpoint.oauth2_client_credentials
    errors = []
    if key is not None:
        errors += common.secret_ref("spec.apiKeySecret", key.name, key.key)
    if oauth2 is not None:
        at = "spec.endpoint.oauth2ClientCredentials"
        errors += common.http_url(f"{at}.tokenURL", oauth2.token_url)
        errors += common.secret_ref(f"{at}.clientIdSecret", oauth2.client_id_secret.name, oauth2.client_id_secret.key)
        errors += common.secret_ref(
            f"{at}.clientSecretSecret", oauth2.client_secret_secret.name, oauth2.client_secret_secret.key
        )
        if not spec.endpoint.base_url and spec.type != "openaicompat":
            errors.append(required("spec.endpoint.baseURL", "OAuth 2 needs the URL of the API it lets in to"))
        if key is not None:
            errors.append(forbidden("spec.apiKeySecret", "endpoint.oauth2ClientCredentials is set; use one of the two"))
    if key is None and oauth2 is None and spec.type in TYPES and needs_auth(spec):
        errors.append(
            required("spec.apiKeySecret", f"type {spec.type} needs a key, or endpoint.oauth2ClientCredentials")
        )
    return errors


def _config(spec: ProviderSpec) -> list[FieldError]:
    config = spec.config
    allowed = (
        ("vertex", config.vertex is not None, ("anthropic", "google")),
        ("bedrock", config.bedrock, ("anthropic", "bedrock")),
        ("azureAPIVersion", bool(config.azure_api_version), ("azure",)),
        ("organization", bool(config.organization), ("openai",)),
        ("project", bool(config.project), ("openai",)),
        ("useResponsesAPI", config.use_responses_api, ("openai", "azure", "openaicompat")),
    )
    errors = [
        forbidden(f"spec.config.{name}", f"type {spec.type} has no {name}; it is for {', '.join(types)}")
        for name, given, types in allowed
        if given and spec.type not in types
    ]
    if config.vertex is not None and config.bedrock:
        errors.append(forbidden("spec.config.bedrock", "config.vertex is set; use one of the two"))
    return errors


def _models(spec: ProviderSpec) -> list[FieldError]:
    return [
        invalid(f"spec.models[{index}]", f"{entry!r} has a * that is not at the end")
        for index, entry in enumerate(spec.models)
        if "*" in entry[:-1]
    ] + common.unique("spec.models", spec.models)
