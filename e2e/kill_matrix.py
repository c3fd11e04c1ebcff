"""Kills every part of the chain in every moment of a turn, and looks at what is left.

    python e2e/kill_matrix.py [--victims NAME,…] [--moments NAME,…] [--output FILE]

Each cell starts from a conversation of one turn, brings a run of a daemon agent to the moment, kills the victim,
waits until everything is Ready again and asks the agent once more. `EXPECTED` says how the run has to end and how
often the model may have been asked for it; besides, in every cell:

- the conversation holds the turns from before, then what the run left, then the new turn;
- the victim's container was restarted once in the same pod, or its pod was replaced, and its pod was not Ready
  meanwhile; every other pod is as it was;
- the run ends once: what its status says does not change afterwards;
- the tool's marker was written at most once, and no process of the turn or of a former pod is left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen
from doomed_plane import AGENT, MEMORY, MODEL, OPERATOR, DoomedPlane, Pod, running, unread_bytes
from objects import agent, run, scripted_model

NAME = "victim"
RECORD = "/record/requests.jsonl"
IDLE, TURN, TOOL, DISPATCH = "idle", "mid-turn", "mid-tool", "dispatched"
MOMENTS = {
    IDLE: "no run is going",
    TURN: "the model is streaming its answer, some of it is shown",
    TOOL: "bash is running",
    DISPATCH: "the operator has sent the prompt, the agent has not answered yet",
}
VICTIMS = {
    "agent-process": "SIGKILL to the agent's process",
    "agent-tree": "SIGKILL to every process of the agent's pod",
    "agent-pod-forced": "kubectl delete pod --grace-period=0 --force",
    "agent-pod": "kubectl delete pod",
    "memory": "SIGKILL to the memory service",
    "model": "SIGKILL to the model",
    "operator": "SIGKILL to the leading operator",
    "operators": "SIGKILL to both operators",
    "plane": "SIGKILL to the plane, with every pod; then up again",
}


@frozen
class Expected:
    """How a run ends: by the reason of its Complete condition, the requests the model may have had for it."""

    requests: dict[str, tuple[int, ...]]
    why: str


def _ends(why: str, **requests: int | tuple[int, ...]) -> Expected:
    return Expected({end: n if isinstance(n, tuple) else (n,) for end, n in requests.items()}, why)


_KILLED = "its record outlives the process; a run that was going then is failed, never repeated"
_UNREAD = "nobody read the prompt; only the restarted agent knows, so the operator does not send it again"
_GONE = "the pod it was sent to is gone; what it did nobody can tell, so it is not sent again"
_DRAINED = "the pod finishes its turn within its grace period; the next pod waits for the state it leaves"
_UNAFFECTED = "the turn does not need it"
_READ_LATE = (
    "the agent reads the prompt and the next leader asks for its record; "
    "if it sees the connection gone first, it drops it"
)
_RESUMED = "the next leader finds the pod in the run's status and asks it for the record"
EXPECTED: dict[tuple[str, str], Expected] = {
    ("agent-process", TURN): _ends(_KILLED, Interrupted=1),
    ("agent-process", TOOL): _ends(_KILLED, Interrupted=1),
    ("agent-process", DISPATCH): _ends(_UNREAD, Lost=0),
    ("agent-tree", TURN): _ends(_KILLED, Interrupted=1),
    ("agent-tree", TOOL): _ends(_KILLED, Interrupted=1),
    ("agent-tree", DISPATCH): _ends(_UNREAD, Lost=0),
    ("agent-pod-forced", TURN): _ends(_GONE, Lost=1),
    ("agent-pod-forced", TOOL): _ends(_GONE, Lost=1),
    ("agent-pod-forced", DISPATCH): _ends(_GONE, Lost=0),
    ("agent-pod", TURN): _ends(_DRAINED, Succeeded=1),
    ("agent-pod", TOOL): _ends(_DRAINED, Succeeded=2),
    ("agent-pod", DISPATCH): _ends(
        "a pod that is told to stop takes the prompt and finishes it, or refuses it and the next pod gets it",
        Succeeded=1,
    ),
    ("memory", TURN): _ends(_UNAFFECTED, Succeeded=1),
    ("memory", TOOL): _ends(_UNAFFECTED, Succeeded=2),
    ("memory", DISPATCH): _ends("the turn starts without what memory would have added", Succeeded=1),
    ("model", TURN): _ends("what was shown cannot be taken back, and there is no fallback model", Failed=1),
    ("model", TOOL): _ends("the model is back, or is asked again, when the tool's result is there", Succeeded=2),
    ("model", DISPATCH): _ends(
        "a model that cannot be reached is asked again twice; then the run fails", Succeeded=1, Failed=0
    ),
    ("operator", TURN): _ends(_RESUMED, Succeeded=1),
    ("operator", TOOL): _ends(_RESUMED, Succeeded=2),
    ("operator", DISPATCH): _ends(_READ_LATE, Succeeded=1, Lost=0),
    ("operators", TURN): _ends(_RESUMED, Succeeded=1),
    ("operators", TOOL): _ends(_RESUMED, Succeeded=2),
    ("operators", DISPATCH): _ends(_READ_LATE, Succeeded=1, Lost=0),
    ("plane", TURN): _ends(
        "pods die with the plane; " + _KILLED + "; where the model dies first, it may still say so",
        Interrupted=1,
        Failed=1,
    ),
    ("plane", TOOL): _ends("pods die with the plane; " + _KILLED, Interrupted=1),
    ("plane", DISPATCH): _ends("pods die with the plane; " + _UNREAD, Lost=0),
}
CELLS = tuple((victim, moment) for victim in VICTIMS for moment in MOMENTS)
_ANSWER = {TURN: "onetwothreefourfivesixseveneight", DISPATCH: "The prompt arrived."}


def _sleep(number: int) -> str:
    """A command line that no other process of the machine has."""
    return f"sleep 4.{1000 + number}"


def script() -> str:
    """The model's: one turn that calls the tool per cell."""
    turns: list[dict[str, Any]] = []
    for number, (victim, moment) in enumerate(CELLS):
        cell = f"[{victim} {moment}]"
        if moment == TURN:
            text = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
            turns.append({"when": {"user": cell}, "text": text, "chunk_delay": 0.6})
        elif moment == DISPATCH:
            turns.append({"when": {"user": cell}, "text": _ANSWER[DISPATCH]})
        elif moment == TOOL:
            command = f"echo '{cell}' >> ran.txt; {_sleep(number)}; echo 'done {cell}'"
            calls = [{"name": "bash", "arguments": {"command": command}}]
            turns.append({"when": {"user": cell}, "tool_calls": calls})
            turns.append({"when": {"tool_result": f"done {cell}"}, "text": f"The tool is done {cell}"})
    return json.dumps({"turns": turns, "otherwise": {"text": "An ordinary answer."}})


def manifests() -> list[dict[str, Any]]:
    """The agent, and a model that keeps its requests where a restart of its container does not lose them."""
    model = scripted_model("scripted", script())
    (pod,) = [m["spec"]["template"]["spec"] for m in model if m["kind"] == "Deployment"]
    pod["containers"][0]["args"] += ["--record", RECORD]
    pod["containers"][0]["volumeMounts"].append({"name": "record", "mountPath": str(Path(RECORD).parent)})
    pod["volumes"].append({"name": "record", "emptyDir": {}})
    return [*model, agent(NAME, memory={"serverRef": "agentops-memory"}, storage={"size": "1Gi"})]


@define
class Row:
    """What was seen in a cell. `problems` is empty when all of it was expected."""

    victim: str
    moment: str
    end: str = "-"
    message: str = ""
    requests: int = 0
    marker: int = 0
    restarts: str = ""
    seconds: float = 0.0
    problems: list[str] = Factory(list)

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


class Matrix:
    """Runs cells on one plane that has `manifests()`."""

    def __init__(self, plane: DoomedPlane) -> None:
        self._plane = plane
        self._token = plane.token(NAME)

    def cell(self, victim: str, moment: str) -> Row:
        """One cell. Never raises for what it finds; what it cannot bring about is an AssertionError."""
        plane, row = self._plane, Row(victim, moment)
        started = time.monotonic()
        slug = f"{victim}-{moment}"
        plane.eventually(plane.settled, f"everything is ready before {slug}", 90)
        plane.raw(self._path("working-memory"), f"{NAME}-token", method="DELETE")
        self._ask(f"{slug}-before", f"hello before {slug}")
        said, pods = self._conversation(), plane.pods()
        thaw = self._bring_about(slug, victim, moment)
        killed = time.time()
        chosen = self._kill(victim)
        if victim != "agent-pod-forced":  # a frozen process ends by SIGKILL all the same, and reads nothing before
            thaw()
        status = {} if moment == IDLE else self._ended(slug)
        plane.eventually(plane.settled, f"everything is ready again after {slug}", 90)
        self._ask(f"{slug}-after", f"hello after {slug}")
        if moment != IDLE:
            self._judge_run(row, slug, status)
        self._judge_conversation(row, slug, said)
        self._judge_pods(row, pods, chosen, killed)
        self._judge_leftovers(row, slug)
        row.seconds = time.monotonic() - started
        return row

    # bringing it about

    def _bring_about(self, slug: str, victim: str, moment: str) -> Callable[[], None]:
        """Returns at the moment; the result lets go what was held back."""
        plane, pod, cell = self._plane, self._plane.pod(AGENT), f"[{victim} {moment}]"
        if moment == DISPATCH:
            plane.signal_role(pod, signal.SIGSTOP)
            plane.apply(run(slug, NAME, f"{cell} {'x' * 1000}"))
            plane.eventually(lambda: unread_bytes(pod.ip, 4096) > 1000, "the prompt was sent", 30)
            return lambda: plane.signal_role(pod, signal.SIGCONT)
        if moment == TURN:
            plane.apply(run(slug, NAME, cell))
            plane.eventually(lambda: self._requests(cell), "the model is asked", 30)
            with plane.events(pod.ip, self._token, slug) as events:
                assert any(event["type"] == "text_delta" for event in events), "the answer ended without text"
        elif moment == TOOL:
            plane.apply(run(slug, NAME, cell))
            plane.eventually(lambda: running(self._sleep_of(victim, moment)), "the tool runs", 30)
        return lambda: None

    def _kill(self, victim: str) -> list[Pod]:
        """Do it; the pods whose containers died of it."""
        plane = self._plane
        match victim:
            case "agent-process" | "memory" | "model":
                pod = plane.pod({"memory": MEMORY, "model": MODEL}.get(victim, AGENT))
                plane.signal_role(pod, signal.SIGKILL)
                return [pod]
            case "agent-tree":
                pod = plane.pod(AGENT)
                for pid in plane.processes(pod):
                    with suppress(ProcessLookupError):  # its parent's death took it along
                        os.kill(pid, signal.SIGKILL)
                return [pod]
            case "agent-pod" | "agent-pod-forced":
                pod = plane.pod(AGENT)
                forced = ["--grace-period=0", "--force"] if victim == "agent-pod-forced" else []
                plane.kubectl("delete", "pod", pod.name, "-n", "agents", "--wait=false", *forced)
                return [pod]
            case "operator":
                pod = plane.leader()
                plane.signal_role(pod, signal.SIGKILL)
                return [pod]
            case "operators":
                pods = [pod for pod in plane.pods() if pod.role == OPERATOR]
                for pod in pods:
                    plane.signal_role(pod, signal.SIGKILL)
                return pods
            case "plane":
                pods = plane.pods()
                plane.kill()
                plane.up()
                return pods
        raise ValueError(victim)

    def _ask(self, name: str, prompt: str) -> None:
        self._plane.apply(run(name, NAME, prompt))
        status = self._ended(name)
        assert status["phase"] == "Succeeded", f"{name}: {status.get('output')}"

    def _ended(self, name: str) -> dict[str, Any]:
        def status() -> Any:
            found = self._plane.get("agentrun", name).get("status") or {}
            return found if found.get("phase") in ("Succeeded", "Failed") else None

        found: dict[str, Any] = self._plane.eventually(status, f"agentrun/{name} ends", 90)
        return found

    # judging

    def _judge_run(self, row: Row, slug: str, status: dict[str, Any]) -> None:
        expected = EXPECTED[row.victim, row.moment]
        cell = f"[{row.victim} {row.moment}]"
        complete = next(c for c in status["conditions"] if c["type"] == "Complete")
        row.end, row.message = complete["reason"], complete["message"]
        row.requests = self._requests(cell)
        row.check(row.end in expected.requests, f"ended {row.end}: {row.message}")
        allowed = expected.requests.get(row.end)
        row.check(allowed is None or row.requests in allowed, f"{row.requests} requests for a run that {row.end}")
        if row.end in ("Lost", "Interrupted"):
            row.check("a second time" in row.message, f"the message leaves open why it is not repeated: {row.message}")
        later = self._plane.get("agentrun", slug)
        row.check(later["status"] == status, f"its status changed after it had ended: {later['status']}")
        row.check(not later["metadata"].get("finalizers"), "it ended but still holds its finalizer")
        if row.moment == TOOL:
            row.marker = self._markers(cell)
            row.check(row.marker == 1, f"the tool ran {row.marker} times")

    def _judge_conversation(self, row: Row, slug: str, before: list[Any]) -> None:
        after = self._conversation()
        row.check(after[: len(before)] == before, "the turns from before are not as they were")
        texts = [_text(message) for message in after[len(before) :]]
        asked = [text for text in texts if f"[{row.victim} {row.moment}]" in text and not text.startswith("The tool")]
        row.check(texts[-2:] == [f"hello after {slug}", "An ordinary answer."], f"the new turn is not its end: {texts}")
        if row.end == "Succeeded":
            answer = _ANSWER.get(row.moment, f"The tool is done [{row.victim} {row.moment}]")
            row.check(len(asked) == 1 and texts[-3] == answer, f"the run's turn is not in it once: {texts}")
        elif row.end == "Failed":
            row.check(len(asked) == 1 and "[failed" in texts[-3], f"it does not tell that the turn failed: {texts}")
        else:
            row.check(len(texts) == 2, f"a turn that nobody finished left {texts[:-2]}")

    def _judge_pods(self, row: Row, before: Sequence[Pod], victims: Sequence[Pod], killed: float) -> None:
        after = {pod.uid: pod for pod in self._plane.pods()}
        deleted = row.victim.startswith("agent-pod")
        for pod in before:
            now = after.pop(pod.uid, None)
            if pod not in victims:
                row.check(now == pod, f"{pod.role} was not killed, but is now {now}")
            elif deleted:
                row.check(now is None, f"{pod.name} was deleted and is still there")
            elif now is None:
                row.check(False, f"{pod.role} was replaced instead of restarted")
            else:
                row.check(now.restarts == pod.restarts + 1, f"{pod.role}: {pod.restarts} -> {now.restarts} restarts")
                row.check(now.ready_since >= int(killed), f"{pod.role} was Ready all the time")
        fresh = list(after.values())
        row.check(len(fresh) == int(deleted), f"new pods: {[pod.name for pod in fresh]}")
        row.check(not any(pod.restarts for pod in fresh), "the new pod was restarted")
        row.restarts = "new pod" if deleted else ", ".join(f"{pod.role} +1" for pod in victims)

    def _judge_leftovers(self, row: Row, slug: str) -> None:
        strays = self._plane.of_pods(known=tuple(pod.uid for pod in self._plane.pods()))
        row.check(not strays, f"processes of former pods: {strays}")
        tool = running(self._sleep_of(row.victim, row.moment))
        row.check(not tool, f"the tool still runs: {tool}")

    # looking

    def _conversation(self) -> list[Any]:
        found: list[Any] = self._plane.raw(self._path("working-memory"), f"{NAME}-token")
        return found

    def _path(self, route: str) -> str:
        return f"/api/v1/namespaces/agents/services/{NAME}:4096/proxy/{route}"

    def _requests(self, cell: str) -> int:
        """How often the model was asked with this as the user's last word."""
        done = self._plane.kubectl("exec", "deployment/scripted", "-n", "agents", "--", "cat", RECORD, check=False)
        bodies = [json.loads(line).get("body", {}) for line in done.stdout.splitlines() if line.strip()]
        last = [[m["content"] for m in body["messages"] if m["role"] == "user"][-1] for body in bodies]
        return sum(cell in str(words) for words in last)

    def _markers(self, cell: str) -> int:
        done = self._plane.kubectl("exec", f"deployment/{NAME}", "-n", "agents", "--", "cat", "ran.txt", check=False)
        return done.stdout.splitlines().count(cell)

    def _sleep_of(self, victim: str, moment: str) -> str:
        return _sleep(CELLS.index((victim, moment)))


def _text(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["content"] if part.get("type") == "text").strip()


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown."""
    lines = [
        "| victim | moment | run ends | model requests | tool ran | restarts | why | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        expected = EXPECTED.get((row.victim, row.moment))
        marker = str(row.marker) if row.moment == TOOL else "-"
        requests = "-" if expected is None else str(row.requests)
        why = "nothing was going" if expected is None else expected.why
        verdict = "; ".join(row.problems).replace("|", "\\|") or "as expected"
        lines.append(
            f"| {row.victim} | {row.moment} | {row.end} | {requests} | {marker} | {row.restarts} | {why} | {verdict} |"
        )
    return "\n".join(lines)


def page(rows: Sequence[Row]) -> str:
    """docs/kill-matrix.md."""
    good = sum(not row.problems for row in rows)
    victims = "\n".join(f"| {name} | {what} |" for name, what in VICTIMS.items())
    moments = "\n".join(f"| {name} | {what} |" for name, what in MOMENTS.items())
    return f"""# What is left when something is killed

`python e2e/kill_matrix.py --output docs/kill-matrix.md` kills every part of the chain in every moment of a turn, on a
local plane of its own, and writes this page. `--victims` and `--moments` choose cells; `hack/test` runs the most
telling ones (`e2e/test_kill_matrix.py`). Last run: {good} of {len(rows)} cells as expected, {date.today()}.

| victim | how |
|---|---|
{victims}

| moment | when |
|---|---|
{moments}

## Checked in every cell
1. The run ends once, by one of the reasons `EXPECTED` allows; its status does not change afterwards, it holds no
   finalizer, and a run that is not repeated says so.
2. The model was asked for it as often as that end allows: nothing is asked twice.
3. The tool's marker was written at most once.
4. The conversation (`GET /working-memory`) holds the turns from before, unchanged, then what the run left, then the
   turn that was asked for afterwards.
5. The victim's container was restarted exactly once in the same pod and was not Ready meanwhile (a deleted pod was
   replaced by one that never restarted); every other pod is as it was: same uid, restarts and Ready transition.
6. No process of the turn, or of a former pod, is left.

A turn that died with its process leaves nothing in the conversation; one that failed while the process lived leaves
its prompt and a marker. `Interrupted` means the agent knows that it was in the middle of the run, `Lost` that nobody
can know how far it got. Neither is repeated: making a new AgentRun is for whoever can judge that.

## Cells
{table(rows)}

## More of the kind
- `python e2e/takeover.py --rounds 20`: the leading operator killed and told to stop; time until the other one has
  reconciled a change, and what the audit log and the model show to have been done twice (nothing).
- `hack/kill-writes memory --kills 100`, `hack/kill-writes plane --kills 50`: SIGKILL under writes; every acknowledged
  one is there, once; revisions only grow; watches go on from before the kill.
- `tests/integration/runtime/test_cut.py`, `e2e/test_takeover.py`: the paths to model, memory and API server cut for ten
  seconds in mid-turn.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", default=",".join(VICTIMS), help="comma-separated; all by default")
    parser.add_argument("--moments", default=",".join(MOMENTS), help="comma-separated; all by default")
    parser.add_argument("--output", type=Path, help="write the page to this file")
    parser.add_argument("--keep", action="store_true", help="leave the plane running, to look at it")
    args = parser.parse_args()
    victims, moments = args.victims.split(","), args.moments.split(",")
    for name in {*victims, *moments} - {*VICTIMS, *MOMENTS}:
        parser.error(f"{name!r} is neither a victim ({', '.join(VICTIMS)}) nor a moment ({', '.join(MOMENTS)})")
    directory = Path(tempfile.mkdtemp(prefix="agentops-kill-matrix-"))
    plane, rows = DoomedPlane(directory), []
    try:
        plane.up()
        plane.install(*manifests())
        matrix = Matrix(plane)
        for victim, moment in CELLS:
            if victim in victims and moment in moments:
                row = matrix.cell(victim, moment)
                rows.append(row)
                seen = f"{victim} {moment}: {row.end}, {row.requests} requests, {row.seconds:.0f} s"
                print(seen, *row.problems, sep="\n  ", file=sys.stderr, flush=True)
    finally:
        if args.keep:
            print(f"KUBECONFIG={plane.kubeconfig}; agentops local down --state-dir {directory}", file=sys.stderr)
        else:
            plane.down()
            shutil.rmtree(directory)
        print(table(rows))
        if args.output:
            args.output.write_text(page(rows))
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
