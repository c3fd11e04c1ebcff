"""Keeps one noisy object from filling the server with events (client-go `tools/record`'s correlator).

Off unless an EventBroadcaster is given one: series already join what is said again.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field

COMBINED = "(combined from similar events): "


@define(slots=True, eq=False)
class _Source:
    tokens: float
    at: float
    notes: dict[str, dict[str, float]] = field(factory=dict)  # reason -> note -> when


class SpamFilter:
    """Per (component, object): `burst` events at once, then one every `refill_s`.

    When `similar` distinct notes share a reason within `window_s`, further ones are marked as combined.
    The `size` sources used last are remembered.
    """

    def __init__(
        self,
        *,
        burst: int = 25,
        refill_s: float = 300.0,
        similar: int = 10,
        window_s: float = 600.0,
        size: int = 4096,
    ) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._similar = similar
        self._window_s = window_s
        self._size = size
        self._sources: OrderedDict[tuple[str, ...], _Source] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sources)

    def judge(self, component: str, regarding: tuple[str, ...], reason: str, note: str, now: float) -> str | None:
        """The note to write, or None when the event should not be. `now` is in seconds."""
        key = (component, *regarding)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source(float(self._burst), now)
            if len(self._sources) > self._size:
                self._sources.popitem(last=False)
        self._sources.move_to_end(key)
        source.tokens = min(self._burst, source.tokens + (now - source.at) / self._refill_s)
        source.at = now
        if source.tokens < 1:
            return None
        source.tokens -= 1
        notes = source.notes.setdefault(reason, {})
        for old in [text for text, seen in notes.items() if now - seen > self._window_s]:
            del notes[old]
        if note not in notes and len(notes) >= self._similar:
            return COMBINED + note
        notes[note] = now
        return note
