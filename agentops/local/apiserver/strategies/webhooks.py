"""Configurations of admission webhooks: defaults, and everything a cluster refuses about them.

A webhook that cannot be called as it is written is found out by the one who writes it, not by everybody whose
writes it should have judged. Source: Kubernetes' `pkg/apis/admissionregistration/validation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from agentops.kube.kinds import MUTATING_WEBHOOK_CONFIGURATION
from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.match_conditions import compile_condition
from agentops.local.apiserver.meta import qualified_name_problem
from agentops.local.apiserver.schema.cel import CelError
from agentops.local.apiserver.strategies.base import Context, Strategy, dns1035_name, subdomain_name
from agentops.local.apiserver.strategies.placement import validate_label_selector

Object = dict[str, Any]

_VERSIONS = ("v1", "v1beta1")
_SIDE_EFFECTS = ("None", "NoneOnDryRun")
_CHOICES = {
    "failurePolicy": ("Fail", "Ignore"),
    "matchPolicy": ("Equivalent", "Exact"),
    "reinvocationPolicy": ("IfNeeded", "Never"),
}
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")
_MAX_CONDITIONS = 64
_FORM = "; desired format: https://host[/path]"


class WebhookStrategy(Strategy):
    has_generation = True

    def default(self, obj: Object) -> None:
        for hook in obj.get("webhooks") or ():
            hook.setdefault("failurePolicy", "Fail")
            hook.setdefault("matchPolicy", "Equivalent")
            hook.setdefault("namespaceSelector", {})
            hook.setdefault("objectSelector", {})
            hook.setdefault("timeoutSeconds", 10)
            if obj.get("kind") == MUTATING_WEBHOOK_CONFIGURATION.kind:
                hook.setdefault("reinvocationPolicy", "Never")
            for rule in hook.get("rules") or ():
                rule.setdefault("scope", "*")
            if service := (hook.get("clientConfig") or {}).get("service"):
                service.setdefault("port", 443)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out: list[FieldError] = []
        names: set[str] = set()
        for index, hook in enumerate(obj.get("webhooks") or ()):
            at = f"webhooks[{index}]"
            out.extend(_hook(hook, at))
            name = hook.get("name") or ""
            if name in names:
                out.append(errors.duplicate(f"{at}.name", name))
            names.add(name)
        return out


def _hook(hook: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    yield from _name(hook.get("name") or "", f"{at}.name")
    for index, rule in enumerate(hook.get("rules") or ()):
        yield from _rule(rule, f"{at}.rules[{index}]")
    for field, allowed in _CHOICES.items():
        value = hook.get(field)
        if value is not None and value not in allowed:
            yield errors.not_supported(f"{at}.{field}", value, allowed)
    effects = hook.get("sideEffects")
    if effects is None:
        yield errors.required(f"{at}.sideEffects", f"must specify one of {', '.join(_SIDE_EFFECTS)}")
    elif effects not in _SIDE_EFFECTS:
        yield errors.not_supported(f"{at}.sideEffects", effects, _SIDE_EFFECTS)
    timeout_s = hook.get("timeoutSeconds")
    if timeout_s is not None and not 1 <= timeout_s <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        yield errors.invalid_value(f"{at}.timeoutSeconds", timeout_s, detail)
    for field in ("namespaceSelector", "objectSelector"):
        yield from validate_label_selector(hook.get(field), f"{at}.{field}")
    yield from _client_config(hook.get("clientConfig") or {}, f"{at}.clientConfig")
    yield from _conditions(hook.get("matchConditions") or (), f"{at}.matchConditions")
    yield from _review_versions(hook.get("admissionReviewVersions") or (), f"{at}.admissionReviewVersions")


def _name(name: str, at: str) -> Iterator[FieldError]:
    if not name:
        yield errors.required(at)
        return
    if problem := subdomain_name(name):
        yield errors.invalid_value(at, name, problem)
    if len(name.split(".")) < 3:
        yield errors.invalid_value(at, name, "should be a domain with at least three segments separated by dots")


def _rule(rule: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    for field, others in (("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")):
        values = rule.get(field) or ()
        if not values:
            yield errors.required(f"{at}.{field}")
        if len(values) > 1 and "*" in values:
            detail = f"if '*' is present, must not specify other {others}"
            yield errors.invalid_value(f"{at}.{field}", values, detail)
    for index, operation in enumerate(rule.get("operations") or ()):
        if operation not in _OPERATIONS:
            yield errors.not_supported(f"{at}.operations[{index}]", operation, _OPERATIONS)
    for index, version in enumerate(rule.get("apiVersions") or ()):
        if not version:
            yield errors.required(f"{at}.apiVersions[{index}]")
    yield from _resources(rule.get("resources") or (), f"{at}.resources")
    scope = rule.get("scope")
    if scope is not None and scope not in _SCOPES:
        yield errors.not_supported(f"{at}.scope", scope, _SCOPES)


def _resources(resources: Sequence[str], at: str) -> Iterator[FieldError]:
    if not resources:
        yield errors.required(at)
    whole: set[str] = set()
    everywhere: set[str] = set()
    for index, item in enumerate(resources):
        if not item:
            yield errors.required(f"{at}[{index}]")
        resource, slash, sub = item.partition("/")
        if not slash:
            continue
        if resource in whole:
            detail = f"if '{resource}/*' is present, must not specify {item}"
            yield errors.invalid_value(f"{at}[{index}]", item, detail)
        if sub in everywhere:
            yield errors.invalid_value(f"{at}[{index}]", item, f"if '*/{sub}' is present, must not specify {item}")
        if sub == "*":
            whole.add(resource)
        if resource == "*":
            everywhere.add(sub)
    if len(resources) > 1 and "*/*" in resources:
        yield errors.invalid_value(at, resources, "if '*/*' is present, must not specify other resources")
    if "*" in resources and any(r and r != "*" and "/" not in r for r in resources):
        detail = "if '*' is present, must not specify other resources without subresources"
        yield errors.invalid_value(at, resources, detail)


def _client_config(config: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        yield errors.required(at, "exactly one of url or service is required")
    elif url is not None:
        yield from _url(url, f"{at}.url")
    else:
        yield from _service(service or {}, f"{at}.service")


def _url(url: str, at: str) -> Iterator[FieldError]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        yield errors.required(at, f"url must be a valid URL: {error}{_FORM}")
        return
    if parts.scheme != "https":
        yield errors.invalid_value(at, parts.scheme, f"'https' is the only allowed URL scheme{_FORM}")
    credentials, _, host = parts.netloc.rpartition("@")
    if not host:
        yield errors.invalid_value(at, host, f"host must be specified{_FORM}")
    if credentials:
        yield errors.invalid_value(at, credentials.partition(":")[0], "user information is not permitted in the URL")
    if parts.fragment:
        yield errors.invalid_value(at, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        yield errors.invalid_value(at, parts.query, "query parameters are not permitted in the URL")


def _service(service: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    for field in ("name", "namespace"):
        if not service.get(field):
            yield errors.required(f"{at}.{field}")
    port = service.get("port", 443)
    if not 1 <= port <= 65535:
        detail = "port is not valid: must be between 1 and 65535, inclusive"
        yield errors.invalid_value(f"{at}.port", port, detail)
    path = service.get("path") or "/"
    if path == "/":
        return
    if not path.startswith("/"):
        yield errors.invalid_value(f"{at}.path", path, "must start with a '/'")
    for index, segment in enumerate(path.removeprefix("/").removesuffix("/").split("/")):
        problem = subdomain_name(segment) if segment else "may not be empty"
        if problem:
            text = f"segment[{index}] {problem}" if not segment else f"segment[{index}]: {problem}"
            yield errors.invalid_value(f"{at}.path", path, text)


def _conditions(conditions: Sequence[Mapping[str, Any]], at: str) -> Iterator[FieldError]:
    if len(conditions) > _MAX_CONDITIONS:
        yield errors.FieldError(errors.TOO_MANY, at, f"must have at most {_MAX_CONDITIONS} items", len(conditions))
    names: set[str] = set()
    for index, condition in enumerate(conditions):
        where, name, expression = f"{at}[{index}]", condition.get("name") or "", condition.get("expression") or ""
        if not expression.strip():
            yield errors.required(f"{where}.expression")
        else:
            try:
                compile_condition(expression)
            except CelError as error:
                text = str(error)
                detail = text if text.startswith("must evaluate") else f"compilation failed: {text}"
                yield errors.invalid_value(f"{where}.expression", expression, detail)
        if not name:
            yield errors.required(f"{where}.name")
        elif problem := qualified_name_problem(name):
            yield errors.invalid_value(f"{where}.name", name, problem)
        if name and name in names:
            yield errors.duplicate(f"{where}.name", name)
        names.add(name)


def _review_versions(versions: Sequence[str], at: str) -> Iterator[FieldError]:
    if not versions:
        yield errors.required(at, f"must specify one of {', '.join(_VERSIONS)}")
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            yield errors.duplicate(f"{at}[{index}]", version)
        elif problem := dns1035_name(version):
            yield errors.invalid_value(f"{at}[{index}]", version, problem)
    if not set(versions) & set(_VERSIONS):
        yield errors.invalid_value(at, versions, f"must include at least one of {', '.join(_VERSIONS)}")
