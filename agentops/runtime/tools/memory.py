"""`mem_save`, `mem_search`, `mem_context`: there when the agent has memory and its settings allow them."""

from __future__ import annotations

from agentops.api.memory import MAX_CONTENT, MAX_TAG, MAX_TAGS, MAX_TITLE
from agentops.clients.memory import MemoryUnavailable
from agentops.runtime.context import memory_block
from agentops.runtime.errors import ToolFault
from agentops.runtime.memory import AgentMemory
from agentops.runtime.tools.base import Arguments, Tool, ToolOutput, schema


def memory_tools(memory: AgentMemory) -> list[Tool]:
    """`autoSave` switches saving, `autoSearch` searching and reading."""
    tools: list[Tool] = []
    if memory.config.auto_save:
        tools.append(MemSaveTool(memory))
    if memory.config.auto_search:
        tools += [MemSearchTool(memory), MemContextTool(memory)]
    return tools


class MemSaveTool:
    name = "mem_save"
    kind = "memory"
    parallel_safe = False
    description = (
        "Save something worth knowing in later conversations: what was learned and why it matters. "
        "With the same topic_key a newer save replaces the older one."
    )
    schema = schema(
        {
            "title": {"type": "string", "description": "One line."},
            "content": {"type": "string", "description": "Two to five self-contained sentences."},
            "type": {
                "type": "string",
                "description": "bugfix, decision, discovery, pattern, config, preference or learning.",
            },
            "tags": {"type": "array", "items": {"type": "string"}, "description": "A few lower-case words."},
            "topic_key": {"type": "string", "description": "Stable key of the topic, such as deploy/rollback."},
            "scope": {"type": "string", "enum": ["project", "global"], "description": "Who finds it again."},
        },
        ("title", "content"),
    )

    def __init__(self, memory: AgentMemory) -> None:
        self._memory = memory

    async def run(self, arguments: Arguments) -> ToolOutput:
        title, content = arguments["title"].strip(), arguments["content"].strip()
        if not title or not content:
            raise ToolFault("mem_save: title and content must not be empty")
        scope = arguments.get("scope", "project")
        if scope not in ("project", "global"):
            raise ToolFault(f"mem_save: scope must be project or global, got {scope!r}")
        kind = arguments.get("type") or "discovery"
        tags = tuple(str(tag)[:MAX_TAG] for tag in arguments.get("tags", ())[:MAX_TAGS])
        try:
            saved = await self._memory.save(
                kind=kind,
                title=title[:MAX_TITLE],
                content=content[:MAX_CONTENT],
                tags=tags,
                scope=scope,
                topic_key=arguments.get("topic_key") or None,
            )
        except MemoryUnavailable as error:
            raise ToolFault(f"not saved: {error}") from None
        metadata = {"ui": "memory-saved", "type": kind, "title": title}
        if saved is None:
            later = "the memory service is away; it is sent when the service is back"
            return ToolOutput(f"Saved [{kind}] {title} ({later})", {**metadata, "action": "queued"})
        return ToolOutput(f"Saved [{kind}] {title}", {**metadata, "id": saved.id, "action": saved.action})


class MemSearchTool:
    name = "mem_search"
    kind = "memory"
    parallel_safe = True
    description = "Search what was saved in earlier conversations."
    schema = schema(
        {
            "query": {"type": "string", "description": "Words to look for."},
            "limit": {"type": "integer", "description": "How many, 10 when left out."},
        },
        ("query",),
    )

    def __init__(self, memory: AgentMemory) -> None:
        self._memory = memory

    async def run(self, arguments: Arguments) -> ToolOutput:
        query, limit = arguments["query"], max(1, min(100, arguments.get("limit", 10)))
        try:
            hits = await self._memory.search(query, limit)
        except MemoryUnavailable as error:
            raise ToolFault(f"search failed: {error}") from None
        metadata = {"ui": "memory-results", "query": query, "count": len(hits)}
        if not hits:
            return ToolOutput("Nothing was found.", metadata)
        lines = [
            f"{number}. [{hit.type}] {hit.title} (rank {hit.rank:.2f})\n   {hit.content}"
            for number, hit in enumerate(hits, 1)
        ]
        return ToolOutput("\n".join(lines), metadata)


class MemContextTool:
    name = "mem_context"
    kind = "memory"
    parallel_safe = True
    description = "Show recent session summaries and what was saved last."
    schema = schema({"limit": {"type": "integer", "description": "How many, 5 when left out."}})

    def __init__(self, memory: AgentMemory) -> None:
        self._memory = memory

    async def run(self, arguments: Arguments) -> ToolOutput:
        limit = max(1, min(100, arguments.get("limit", 5)))
        found = await self._memory.recent(limit)
        metadata = {"ui": "memory-results", "count": len(found.recent_observations)}
        return ToolOutput(memory_block(found) or "Nothing was saved yet.", metadata)
