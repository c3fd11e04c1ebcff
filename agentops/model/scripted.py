"""The backend that plays a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import orjson

from agentops.model.backend import (
    Answer,
    CallArguments,
    CallStart,
    ChatRequest,
    Finish,
    Part,
    Reasoning,
    Text,
    Usage,
    estimate_tokens,
)
from agentops.model.errors import Refused, StreamCut, StreamEnded, StreamFailed, Verbatim
from agentops.model.script import Script, Turn, cut
from agentops.values.clock import Clock


class ScriptedBackend:
    """Plays `script`; how often each turn answered is its only state."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self._script = script
        self._clock = clock
        self._played = [0] * len(script.turns)

    @property
    def model_names(self) -> tuple[str, ...]:
        return (self._script.model,)

    def not_ready(self) -> str | None:
        return None

    def answer(self, request: ChatRequest) -> Answer:
        index = self._choose(request)
        if index is not None:
            self._played[index] += 1
            return Answer(f"turns[{index}]", self._play(self._script.turns[index], request))
        if self._script.otherwise is not None:
            return Answer("otherwise", self._play(self._script.otherwise, request))
        return Answer("none", _nothing_to_say(request))

    def _choose(self, request: ChatRequest) -> int | None:
        """The first turn whose `when` holds, else the next one without `when`."""
        in_order: int | None = None
        for index, turn in enumerate(self._script.turns):
            if turn.when is not None:
                if turn.when.matches(request) and (turn.times is None or self._played[index] < turn.times):
                    return index
            elif in_order is None and self._played[index] < (turn.times or 1):
                in_order = index
        return in_order

    async def _play(self, turn: Turn, request: ChatRequest) -> AsyncIterator[Part]:
        if turn.delay_s:
            await self._clock.sleep(turn.delay_s)
        if turn.hang:
            await anyio.sleep_forever()
        if turn.error is not None:
            raise Refused(
                turn.error.status,
                f"scripted error {turn.error.status}",
                body=turn.error.body,
                headers=turn.error.headers,
            )
        if turn.raw is not None:
            body = turn.raw.body.encode()
            raise Verbatim(body, turn.raw.slice_bytes or max(1, len(body)))
        chunks, characters = 0, 0
        for part in _parts(turn, request):
            if not isinstance(part, CallStart):
                if turn.breaks is not None and chunks == turn.breaks.after:
                    await _break(turn)
                if turn.chunk_delay_s:
                    await self._clock.sleep(turn.chunk_delay_s)
                chunks += 1
                characters += len(part.text)
            yield part
        if turn.breaks is not None:
            await _break(turn)
        usage = turn.usage or Usage(
            input_tokens=estimate_tokens(orjson.dumps(dict(request.raw)).decode()),
            output_tokens=(characters + 3) // 4,
        )
        yield Finish(turn.finish or ("tool_calls" if turn.tool_calls else "stop"), usage)


def _parts(turn: Turn, request: ChatRequest) -> Iterator[Reasoning | Text | CallStart | CallArguments]:
    yield from map(Reasoning, turn.reasoning)
    for _ in range(turn.repeat):
        yield from map(Text, turn.text)
    if turn.echo is not None:
        echoed = request.last_user if turn.echo == "user" else request.last_tool_result
        yield from map(Text, cut(echoed, turn.chunk_chars))
    for index, call in enumerate(turn.tool_calls):
        yield CallStart(call.id or f"call_{request.number}_{index}", call.name)
        yield from map(CallArguments, cut(call.arguments, turn.chunk_chars))


async def _break(turn: Turn) -> None:
    """Never returns."""
    assert turn.breaks is not None
    match turn.breaks.how:
        case "error":
            raise StreamFailed("scripted error in the middle of the answer", body=turn.breaks.body)
        case "end":
            raise StreamEnded("scripted early end")
        case "cut":
            raise StreamCut("scripted broken connection")
    await anyio.sleep_forever()


async def _nothing_to_say(request: ChatRequest) -> AsyncIterator[Part]:
    raise Refused(
        500,
        f"the script has no turn for request {request.number} "
        f"(turn {request.turn}, step {request.step}, last user message {request.last_user!r:.80}); "
        "add one, or `otherwise`",
    )
    yield Text("")
