"""How long memories are kept. Without a policy: for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from attrs import frozen

from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.values.duration import parse_duration

EVERY_TYPE = "*"
_DAY_S = 86_400.0
_MOST_S = 36_500 * _DAY_S


@frozen(slots=True, kw_only=True)
class Retention:
    """What goes to the trash by itself, and how long it stays there.

    A row's age counts from when it was last written or said again. `security` and `audit` rows go only when their own
    type is named, never by `*` or by number.
    """

    age_s: Mapping[str, float] = MappingProxyType({})
    """Seconds by observation type; `*` is every type not named."""
    most: int = 0
    """Live rows a project may have; the ones longest unused go first. 0: any number."""
    trash_s: float | None = None
    """Seconds in the trash before a row is removed for good; None: never."""

    @property
    def anything(self) -> bool:
        return bool(self.age_s) or self.most > 0 or self.trash_s is not None

    def named(self) -> tuple[str, ...]:
        """Types that `*` does not speak for."""
        return tuple({*self.age_s, *APPEND_ONLY_TYPES} - {EVERY_TYPE})


def parse_ages(items: Sequence[str]) -> dict[str, float]:
    """`decision=90d`, `*=720h` to seconds by type. Raises ValueError naming the item."""
    ages: dict[str, float] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{item!r} is not TYPE=AGE, such as discovery=90d or *=8760h")
        ages[name.strip()] = parse_age(text)
    return ages


def parse_age(text: str) -> float:
    """Seconds in `90d` or a Go duration. Raises ValueError; zero and less, and more than a century, is refused."""
    days = text.strip().removesuffix("d")
    seconds = int(days) * _DAY_S if days != text.strip() and days.isdigit() else parse_duration(text.strip())
    if seconds <= 0:
        raise ValueError(f"{text!r} must be more than nothing")
    if seconds > _MOST_S:
        raise ValueError(f"{text!r} is more than {_MOST_S / _DAY_S:g}d; leave it out to keep for ever")
    return seconds
