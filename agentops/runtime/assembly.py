"""Puts an agent together from its settings: the one place where the parts meet.

Everything that can be wrong with the configuration is found here, before anything listens or runs.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
from attrs import evolve

from agentops.api.runtime_config import ContextFile, MemoryConfig, RuntimeConfig, ToolConfig
from agentops.clients.memory import MemoryClient
from agentops.net.auth import TokenFile
from agentops.net.paths import ROOT_VAR, pod_path
from agentops.net.resolve import http_client
from agentops.runtime.agent import Agent, AgentIdentity, TurnLimits
from agentops.runtime.aside import Aside
from agentops.runtime.context import SystemText, read_context_files
from agentops.runtime.errors import ConfigFault
from agentops.runtime.memory import AgentMemory
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.outbox import Outbox
from agentops.runtime.providers.base import CallOptions
from agentops.runtime.providers.chain import ModelChain
from agentops.runtime.providers.factory import AdapterFactory
from agentops.runtime.settings import Settings, load_config, prepare_directories
from agentops.runtime.store import Store
from agentops.runtime.tools.base import Tool
from agentops.runtime.tools.box import ToolBox
from agentops.runtime.tools.builtin import builtin_tools
from agentops.runtime.tools.fetch import TIMEOUT_S as FETCH_TIMEOUT_S
from agentops.runtime.tools.memory import memory_tools
from agentops.runtime.tools.sandbox import Reach, Sandbox, plan_reach
from agentops.runtime.tools.workspace import Workspace
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock

log = get_logger("runtime.assembly")

DATABASE = "runtime.db"
_PR_SET_DUMPABLE = 4


def random_id() -> str:
    """Twelve hexadecimal digits."""
    return secrets.token_hex(6)


@asynccontextmanager
async def open_agent(
    settings: Settings,
    *,
    mode: str,
    registry: Registry,
    clock: Clock,
    new_id: Callable[[], str] = random_id,
) -> AsyncIterator[Agent]:
    """An agent whose store is open and whose primary adapter is built; not yet running.

    `mode` is `daemon` (state in the data dir) or `task` (state in memory). Raises ConfigFault, StoreFault.
    """
    durable = mode == "daemon"
    config = load_config(settings)
    prepare_directories(settings, durable=durable)
    async with AsyncExitStack() as stack:
        factory = AdapterFactory(settings.environ, http_client, clock, new_id)
        chain = factory.chain(config)
        stack.push_async_callback(chain.aclose)
        titles = _titles(factory, config, chain)
        stack.push_async_callback(titles.aclose)
        metrics = RuntimeMetrics(registry)
        store = await stack.enter_async_context(Store(settings.data_path / DATABASE if durable else ":memory:", clock))
        memory = await _memory(stack, settings, config.memory, store, new_id)
        workspace = Workspace(settings.workspace_path, settings.workspace)
        sandbox = stack.enter_context(Sandbox(_reach(settings, config, workspace)))
        metrics.sandboxed(sandbox.kind)
        http = await stack.enter_async_context(http_client(timeout=httpx2.Timeout(FETCH_TIMEOUT_S)))
        tools: list[Tool] = builtin_tools(
            config.builtin_tools,
            workspace=workspace,
            env=settings.environ,
            http=http,
            clock=clock,
            max_result_chars=config.max_tool_result_chars,
            variables=config.tool_env,
            sandbox=sandbox,
        )
        if memory is not None:
            tools += memory_tools(memory)
        yield Agent(
            AgentIdentity(settings.name, settings.namespace, mode),
            chain=chain,
            tools=ToolBox(
                tools,
                workspace=workspace,
                max_result_chars=config.max_tool_result_chars,
                clock=clock,
                metrics=metrics,
                sandbox=sandbox,
            ),
            system=_system(settings, config),
            limits=TurnLimits(
                options=CallOptions(config.temperature, config.max_output_tokens),
                max_steps=config.max_steps,
                budget_fraction=config.budget_fraction,
                context_windows=config.context_windows,
            ),
            store=store,
            memory=memory,
            aside=Aside(titles, metrics),
            metrics=metrics,
            clock=clock,
            new_id=new_id,
        )


def _titles(factory: AdapterFactory, config: RuntimeConfig, chain: ModelChain) -> ModelChain:
    """The models for titles and summaries: `titleModel`, behind it the agent's own."""
    if config.title_model is None:
        return chain
    fallbacks = (config.primary_model, *config.fallback_models)
    try:
        return factory.chain(evolve(config, primary_model=config.title_model, fallback_models=fallbacks))
    except ConfigFault as fault:
        log.warning("model.title_model_unusable", model=config.title_model, error=str(fault))
        return chain


def _reach(settings: Settings, config: RuntimeConfig, workspace: Workspace) -> Reach:
    """What the tools of this agent can reach: never its state, its bearers or what is mounted beside them."""
    environ = settings.environ
    bearers = (settings.token_file, settings.memory_token_file)
    return plan_reach(
        workspace,
        environ,
        secret=[settings.data_path, *(pod_path(path, environ) for path in bearers if path)],
        readable=[pod_path(path, environ) for path in (*_paths(config.tools), *_paths(config.context_files))],
    )


def _paths(entries: Iterable[ToolConfig | ContextFile]) -> list[str]:
    return [entry.path for entry in entries]


def hide_environment(environ: Mapping[str, str]) -> None:
    """Keep other processes of the same user, the tools' children among them, from reading this one's
    environment through /proc: it holds the model keys. Best effort; root still can.

    Not where pods share the host's file system (`AGENTOPS_ROOT`): there the node finds a pod's processes
    by that very variable.
    """
    if ROOT_VAR in environ:
        return
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError) as error:
        log.warning("process.environment_readable", error=str(error))


def _system(settings: Settings, config: RuntimeConfig) -> SystemText:
    paths = [(file.path, pod_path(file.path, settings.environ)) for file in config.context_files]
    return SystemText(config.platform_protocol, config.system_prompt, read_context_files(paths).text)


async def _memory(
    stack: AsyncExitStack,
    settings: Settings,
    config: MemoryConfig | None,
    store: Store,
    new_id: Callable[[], str],
) -> AgentMemory | None:
    if config is None:
        return None
    token = None
    if settings.memory_token_file:
        token = TokenFile(pod_path(settings.memory_token_file, settings.environ))
    client = await stack.enter_async_context(MemoryClient(config.server_url, token=token))
    return AgentMemory(client, config, outbox=Outbox(client, store), new_id=new_id)
