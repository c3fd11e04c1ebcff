"""Which runs of one agent start, wait or give way.

`admit` is a pure function over all runs of an agent. The reconciler calls it under the agent's lock over
a list that contains its own last writes, and records the answer in `status.admittedAt` before any side
effect; so two workers, or two operators one after the other, can never hand out one slot twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen


@frozen(slots=True, kw_only=True)
class RunView:
    """What admission needs to know of one run. `created` is RFC 3339 text, so it sorts by time."""

    name: str
    created: str
    admitted: bool = False
    finished: bool = False
    waiting: bool = True
    """Whether a run that is not admitted still wants to be: not cancelled, not being deleted."""

    @property
    def holds_slot(self) -> bool:
        return self.admitted and not self.finished

    @property
    def order(self) -> tuple[str, str]:
        return (self.created, self.name)


@frozen(slots=True, kw_only=True)
class Admission:
    """What to do now. Runs named nowhere keep their state: those admitted go on, the others wait."""

    admit: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    """(loser, winner): the loser is stopped, and only when it has ended is the winner admitted."""


def admit(runs: Iterable[RunView], policy: str, max_runs: int) -> Admission:
    """Decide by creation, then name; `policy` is queue, reject or replace.

    Never admits past `max_runs`, and never takes a slot back but by `replace`: lowering `max_runs`
    leaves what runs running.
    """
    ordered = sorted((run for run in runs if not run.finished), key=lambda run: run.order)
    active = [run for run in ordered if run.holds_slot]
    pending = [run for run in ordered if not run.admitted and run.waiting]
    free = max(0, max_runs - len(active))
    if policy == "replace":
        return _replace(active, pending, max_runs, free)
    chosen, rest = pending[:free], pending[free:]
    return Admission(
        admit=tuple(run.name for run in chosen),
        reject=tuple(run.name for run in rest) if policy == "reject" else (),
    )


def _replace(active: list[RunView], pending: list[RunView], max_runs: int, free: int) -> Admission:
    """The newest `max_runs` win; each older one gives way to the newest of all."""
    if not pending:
        return Admission()
    contenders = sorted(active + pending, key=lambda run: run.order)
    losers = contenders[: max(0, len(contenders) - max_runs)]
    lost = {run.name for run in losers}
    chosen = [run.name for run in pending if run.name not in lost][:free]
    return Admission(admit=tuple(chosen), replace=tuple((run.name, contenders[-1].name) for run in losers))
