"""The rules of an Agent that reach beyond one field's type. Numbers are those of docs/reference/agent.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentops.api.model_reference import AmbiguousModel, BadModelReference, find_model
from agentops.api.schedule import schedule_problem
from agentops.api.types.agent import (
    BUILTIN_TOOLS,
    CONCURRENCY_POLICIES,
    MODES,
    STEPS_MAX,
    Agent,
    AgentSpec,
    ToolHooksSpec,
)
from agentops.api.types.agenttool import MCP_SOURCES, AgentTool
from agentops.api.types.provider import Provider
from agentops.api.types.shared import TOKENS_MAX
from agentops.api.validation import common
from agentops.api.validation.common import FieldError, forbidden, invalid, required
from agentops.api.variables import reserved_in
from agentops.values.duration import parse_duration
from agentops.values.names import env_stem, is_dns1035_label, is_dns1123_label, is_dns1123_subdomain

DELEGATION_TOOLS = ("run_agent", "get_agent_run")


def validate_agent(agent: Agent) -> list[FieldError]:
    """Every error of the object by itself; none of what it refers to is looked at."""
    spec = agent.spec
    return [
        *_name(agent),
        *common.one_of("spec.mode", spec.mode, MODES),
        *_models(spec),
        *_providers(spec),
        *_limits(spec),
        *_tools(spec),
        *_storage(spec),
        *_memory(spec),
        *_delegation(agent),
        *_environment(spec),
        *_context_files(spec),
        *_schedule(spec),
        *(_tool_hooks(spec.tool_hooks) if spec.tool_hooks else ()),
        *_pod(spec),
        *common.resources("spec.resources", spec.resources.requests, spec.resources.limits),
    ]


def warn_agent(agent: Agent) -> list[FieldError]:
    """What is allowed and probably not meant."""
    spec = agent.spec
    warnings = []
    if spec.mode == "daemon" and spec.concurrency.max_runs > 1:
        warnings.append(
            invalid("spec.concurrency.maxRuns", "a daemon answers one prompt at a time; the rest wait in order")
        )
    warnings += [invalid(path, "the platform sets this variable; yours is ignored") for path in reserved_in(spec)]
    known = {*spec.builtin_tools, *(binding.name for binding in spec.tools), *DELEGATION_TOOLS}
    hooks = spec.tool_hooks
    warnings += [
        invalid(f"spec.toolHooks.auditTools[{index}]", f"{tool!r} is none of the agent's tools")
        for index, tool in enumerate(hooks.audit_tools if hooks else ())
        if tool not in known
    ]
    return warnings


def validate_agent_update(old: Agent, new: Agent) -> list[FieldError]:
    """What may not change: the mode."""
    if old.spec.mode == new.spec.mode:
        return []
    return [invalid("spec.mode", "is immutable: delete the Agent and create it anew")]


def validate_agent_bindings(
    agent: Agent, providers: Mapping[str, Provider], tools: Mapping[str, AgentTool] | None = None
) -> list[FieldError]:
    """What only shows next to the bound objects: overrides of the wrong type, models that are not allowed.

    Objects that are not in the mappings are skipped: a missing dependency is a condition, not an error.
    """
    errors = []
    for index, binding in enumerate(agent.spec.provider_refs):
        provider = providers.get(binding.name)
        if provider is not None and binding.overrides is not None:
            at = f"spec.providerRefs[{index}].overrides"
            errors += common.call_defaults(at, binding.overrides, provider.spec.type)
    for path, text in _model_fields(agent.spec):
        name, model = split_model(text, agent.spec)
        provider = providers.get(name)
        if provider is not None and not model_allowed(provider.spec.models, model):
            allowed = ", ".join(provider.spec.models)
            errors.append(invalid(path, f"Provider {name} does not allow model {model!r}; it allows {allowed}"))
    for index, tool_binding in enumerate(agent.spec.tools):
        tool = (tools or {}).get(tool_binding.name)
        if tool is None or tool_binding.permissions is None:
            continue
        if all(source not in MCP_SOURCES for source in tool_sources(tool)):
            errors.append(
                forbidden(
                    f"spec.tools[{index}].permissions",
                    f"AgentTool {tool_binding.name} is no MCP tool; only those have permissions",
                )
            )
    return errors


def tool_sources(tool: AgentTool) -> list[str]:
    """The source blocks that are set, in order of precedence."""
    spec = tool.spec
    blocks = {
        "oci": spec.oci,
        "configMap": spec.config_map,
        "inline": spec.inline,
        "mcpServer": spec.mcp_server,
        "mcpEndpoint": spec.mcp_endpoint,
        "skill": spec.skill,
    }
    return [name for name, block in blocks.items() if block is not None]


def split_model(text: str, spec: AgentSpec) -> tuple[str, str]:
    """`(provider, model)` by the rule of `api.model_reference`; the provider is empty when there is none to take."""
    try:
        found = find_model(text, [binding.name for binding in spec.provider_refs], spec.primary_provider)
    except BadModelReference:
        return "", text
    return found.provider, found.model


def model_allowed(allow_list: Sequence[str], model: str) -> bool:
    """Whether a Provider's `models` lets `model` through: no list, the name, a prefix ending in `*`, or `*`."""
    return not allow_list or any(
        model.startswith(entry[:-1]) if entry.endswith("*") else model == entry for entry in allow_list
    )


def _name(agent: Agent) -> list[FieldError]:
    name = agent.metadata.name
    if not name or is_dns1035_label(name):
        return []
    return [
        invalid(
            "metadata.name",
            f"{name!r} becomes the name of a Service: at most 63 of a-z, 0-9 and -, starting with a letter",
        )
    ]


def _model_fields(spec: AgentSpec) -> Iterator[tuple[str, str]]:
    yield "spec.model", spec.model
    if spec.title_model:
        yield "spec.titleModel", spec.title_model
    for index, model in enumerate(spec.fallback_models):
        yield f"spec.fallbackModels[{index}]", model


def _models(spec: AgentSpec) -> list[FieldError]:
    bound = [binding.name for binding in spec.provider_refs]
    errors = []
    if not spec.model:
        errors.append(required("spec.model", "write provider/model"))
    if spec.primary_provider and spec.primary_provider not in bound:
        errors.append(invalid("spec.primaryProvider", _not_bound(spec.primary_provider, bound)))
    for path, text in _model_fields(spec):
        if not text:
            continue
        if _is_untidy(text):
            message = f"{text!r} has spaces or line breaks around its parts; write provider/model without them"
            errors.append(invalid(path, message))
            continue
        try:
            find_model(text, bound, spec.primary_provider)
        except AmbiguousModel as problem:
            errors.append(required("spec.primaryProvider", f"{path.removeprefix('spec.')} {problem}"))
        except BadModelReference as problem:
            errors.append(invalid(path, str(problem)))
    return errors


def _is_untidy(model: str) -> bool:
    """Whether something nobody sees is part of the name; spaces within are, if rarely, some server's own."""
    return not model.isprintable() or any(part != part.strip() for part in model.split("/"))


def _not_bound(provider: str, bound: Sequence[str]) -> str:
    names = ", ".join(bound) or "none"
    return f"{provider!r} is not one of the bound providers ({names}); add it to spec.providerRefs or fix the prefix"


def _providers(spec: AgentSpec) -> list[FieldError]:
    if not spec.provider_refs:
        return [required("spec.providerRefs", "bind at least one Provider")]
    by_variable: dict[str, str] = {}
    errors = common.unique("spec.providerRefs", (binding.name for binding in spec.provider_refs), "name")
    for index, binding in enumerate(spec.provider_refs):
        errors += _object_name(f"spec.providerRefs[{index}].name", binding.name)
        twin = by_variable.setdefault(env_stem(binding.name), binding.name)
        if twin != binding.name:
            message = f"{binding.name!r} and {twin!r} have their keys in the same variable; rename one of the Providers"
            errors.append(invalid(f"spec.providerRefs[{index}].name", message))
        if binding.overrides is not None:
            errors += common.call_defaults(f"spec.providerRefs[{index}].overrides", binding.overrides, None)
    return errors


def _limits(spec: AgentSpec) -> list[FieldError]:
    errors = []
    if spec.temperature is not None and not 0 <= spec.temperature <= 2:
        errors.append(invalid("spec.temperature", f"{spec.temperature} is not between 0 and 2"))
    if not 0 < spec.max_steps <= STEPS_MAX:
        errors.append(invalid("spec.maxSteps", f"{spec.max_steps} is not between 1 and {STEPS_MAX}"))
    if spec.max_output_tokens is not None and not 0 < spec.max_output_tokens <= TOKENS_MAX:
        errors.append(invalid("spec.maxOutputTokens", f"{spec.max_output_tokens} is not between 1 and {TOKENS_MAX}"))
    if spec.concurrency.max_runs < 1:
        errors.append(invalid("spec.concurrency.maxRuns", f"{spec.concurrency.max_runs} is not at least one"))
    errors += common.one_of("spec.concurrency.policy", spec.concurrency.policy, CONCURRENCY_POLICIES)
    try:
        if parse_duration(spec.timeout) <= 0:
            errors.append(invalid("spec.timeout", f"{spec.timeout!r} is not more than zero"))
    except ValueError as error:
        errors.append(invalid("spec.timeout", str(error)))
    return errors


def _tools(spec: AgentSpec) -> list[FieldError]:
    errors = []
    for index, name in enumerate(spec.builtin_tools):
        errors += common.one_of(f"spec.builtinTools[{index}]", name, BUILTIN_TOOLS)
    errors += common.unique("spec.builtinTools", spec.builtin_tools)
    errors += common.unique("spec.tools", (binding.name for binding in spec.tools), "name")
    for index, binding in enumerate(spec.tools):
        errors += _object_name(f"spec.tools[{index}].name", binding.name)
    if not spec.builtin_tools and not spec.tools:
        errors.append(
            required(
                "spec.tools", "the agent has no tools; name some in builtinTools (such as read) or bind AgentTools"
            )
        )
    errors += common.unique("spec.resourceBindings", (binding.name for binding in spec.resource_bindings), "name")
    for index, resource in enumerate(spec.resource_bindings):
        errors += _object_name(f"spec.resourceBindings[{index}].name", resource.name)
    return errors


def _object_name(path: str, name: str) -> list[FieldError]:
    if not name:
        return [required(path, "write the object's name")]
    if not is_dns1123_subdomain(name):
        return [invalid(path, f"{name!r} is not an object's name: use a-z, 0-9, - and .")]
    return []


def _pod(spec: AgentSpec) -> list[FieldError]:
    errors = common.annotation_keys("spec.podAnnotations", spec.pod_annotations)
    if spec.image is not None:
        errors += common.image("spec.image", spec.image)
    if spec.service_account_name is not None:
        errors += _object_name("spec.serviceAccountName", spec.service_account_name)
    return errors


def _storage(spec: AgentSpec) -> list[FieldError]:
    if spec.storage is None:
        return []
    errors = []
    if spec.mode == "task":
        errors.append(
            forbidden("spec.storage", "storage is for daemons: a task's workspace ends with its run; remove it")
        )
    if not spec.storage.size:
        errors.append(required("spec.storage.size", "write a size such as 1Gi"))
    else:
        errors += common.quantity("spec.storage.size", spec.storage.size, positive=True)
    if spec.storage.storage_class:
        errors += _object_name("spec.storage.storageClass", spec.storage.storage_class)
    return errors


def _memory(spec: AgentSpec) -> list[FieldError]:
    if spec.memory is None:
        return []
    if not spec.memory.server_ref:
        return [required("spec.memory.serverRef", "write the name of the memory Service, such as agentops-memory")]
    if not is_dns1123_label(spec.memory.server_ref):
        return [
            invalid(
                "spec.memory.serverRef",
                f"{spec.memory.server_ref!r} is not the name of a Service in this namespace: use a-z, 0-9 and -",
            )
        ]
    return []


def _delegation(agent: Agent) -> list[FieldError]:
    delegation = agent.spec.delegation
    if delegation is None:
        return []
    errors = common.unique("spec.delegation.team", delegation.team)
    if not delegation.team:
        errors.append(required("spec.delegation.team", "name at least one Agent"))
    for index, member in enumerate(delegation.team):
        if member == agent.metadata.name:
            errors.append(invalid(f"spec.delegation.team[{index}]", "an agent cannot delegate to itself"))
    return errors


def _environment(spec: AgentSpec) -> list[FieldError]:
    return [*common.env("spec.env", spec.env), *common.secret_env("spec.secrets", spec.secrets, spec.env)]


def _context_files(spec: AgentSpec) -> list[FieldError]:
    errors = []
    seen: set[str] = set()
    for index, file in enumerate(spec.context_files):
        at = f"spec.contextFiles[{index}].configMapRef"
        key = file.config_map_ref.key
        errors += common.secret_ref(at, file.config_map_ref.name, key)
        if key in seen:
            errors.append(invalid(f"{at}.key", f"two files would be mounted at /etc/context/{key}; rename one"))
        seen.add(key)
    return errors


def _schedule(spec: AgentSpec) -> list[FieldError]:
    if not spec.schedule:
        return []
    errors = []
    problem = schedule_problem(spec.schedule)
    if problem:
        errors.append(invalid("spec.schedule", problem))
    if not spec.schedule_prompt:
        errors.append(required("spec.schedulePrompt", "schedule needs the prompt of the scheduled runs"))
    return errors


def _tool_hooks(hooks: ToolHooksSpec) -> list[FieldError]:
    errors = [
        invalid(f"spec.toolHooks.allowedPaths[{index}]", f"{path!r} is not absolute; begin it with /")
        for index, path in enumerate(hooks.allowed_paths)
        if not path.startswith("/")
    ]
    for index, rule in enumerate(hooks.memory_save_rules):
        at = f"spec.toolHooks.memorySaveRules[{index}]"
        if rule.match_output is not None:
            errors += _regex(f"{at}.matchOutput", rule.match_output)
        for name, pattern in sorted(rule.match_args.items()):
            errors += _regex(f"{at}.matchArgs.{name}", pattern)
    return errors


def _regex(path: str, pattern: str) -> list[FieldError]:
    import re2  # a C++ extension of a few MiB that only rules with patterns need

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        text = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        return [invalid(path, f"{pattern!r} is not an RE2 pattern: {text}")]
    return []
