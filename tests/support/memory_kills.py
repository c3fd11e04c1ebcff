"""SIGKILL of the memory service while it is written to, again and again: what was acknowledged stays, and once.

Each kill has a project of its own. Writers create observations, overwrite one topic each and delete some of what they
created, until a number of writes drawn from the seed is acknowledged; then the process is killed with writes on their
way. What got no answer is sent again to the next process, as the runtime would, and must not appear twice.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from attrs import Factory, define
from support.roles import Role

WRITERS = 4
MOST_ACKNOWLEDGED = 80


@define
class Written:
    """One writer's account of one project."""

    writer: int
    contents: dict[str, int] = Factory(dict)
    """Acknowledged creates that were not deleted: content to id."""
    deleted: set[str] = Factory(set)
    topic: str = ""
    """The last content of its topic that was acknowledged."""
    pending: dict[str, Any] | None = None
    """The request without an answer when the process died."""
    doomed: str = ""
    """The content whose deletion had no answer."""


@define
class Figures:
    kills: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    problems: list[str] = Factory(list)


def run(directory: Path, kills: int, seed: int = 0) -> Figures:
    """Kill it `kills` times; the database stays in `directory`."""
    rng, figures = random.Random(seed), Figures()
    accounts: dict[str, list[Written]] = {}
    for number in range(kills + 1):
        with Role("memory", "--insecure", "--listen", "127.0.0.1:0", "--db", str(directory / "memory.db")) as role:
            base = f"http://127.0.0.1:{role.ready('memory.ready')['port']}"
            with httpx2.Client(base_url=base, timeout=10) as client:
                if number:
                    last = f"kill-{number - 1}"
                    figures.unanswered += _send_again(client, last, accounts[last])
                    figures.problems += _compare(client, last, accounts[last])
                if number == kills:
                    for project, written in accounts.items():
                        figures.problems += _compare(client, project, written)
                    break
            project = f"kill-{number}"
            accounts[project] = _write_until_killed(role, base, project, rng.randint(1, MOST_ACKNOWLEDGED))
            figures.kills += 1
            figures.acknowledged += sum(len(w.contents) + 2 * len(w.deleted) + bool(w.topic) for w in accounts[project])
    return figures


def _write_until_killed(role: Role, base: str, project: str, enough: int) -> list[Written]:
    written = [Written(writer) for writer in range(WRITERS)]
    count, reached = itertools.count(1), threading.Event()

    def acknowledged() -> None:
        if next(count) >= enough:
            reached.set()

    threads = [threading.Thread(target=_write, args=(base, project, each, acknowledged)) for each in written]
    for thread in threads:
        thread.start()
    assert reached.wait(30), f"{project}: not {enough} writes within 30 s"
    assert role.stop(signal.SIGKILL) == -signal.SIGKILL
    for thread in threads:
        thread.join()
    return written


def _write(base: str, project: str, mine: Written, acknowledged: Any) -> None:
    with httpx2.Client(base_url=base, timeout=10) as client:
        for number in itertools.count():
            content = f"writer {mine.writer} said {number} in {project}"
            body = _observation(project, mine.writer, content)
            if number % 5 == 3:
                body["topic_key"] = _topic(mine.writer)
            mine.pending = body
            try:
                answer = client.post("/observations", json=body)
                assert answer.status_code == 201, answer.text
                mine.pending = None
                if "topic_key" in body:
                    mine.topic = content
                else:
                    mine.contents[content] = answer.json()["id"]
                acknowledged()
                if number % 5 == 4:
                    mine.doomed = content
                    assert client.delete(f"/observations/{mine.contents[content]}").status_code == 204
                    del mine.contents[content]
                    mine.deleted.add(content)
                    mine.doomed = ""
                    acknowledged()
            except httpx2.TransportError:
                return


def _send_again(client: httpx2.Client, project: str, accounts: list[Written]) -> int:
    """What had no answer, once more; how much that was."""
    count = 0
    for mine in accounts:
        if mine.pending is not None:
            answer = client.post("/observations", json=mine.pending)
            assert answer.status_code == 201, answer.text
            if "topic_key" in mine.pending:
                mine.topic = mine.pending["content"]
            else:
                mine.contents[mine.pending["content"]] = answer.json()["id"]
            mine.pending, count = None, count + 1
        if mine.doomed:
            assert client.delete(f"/observations/{mine.contents[mine.doomed]}").status_code in (204, 404)
            del mine.contents[mine.doomed]
            mine.deleted.add(mine.doomed)
            mine.doomed, count = "", count + 1
    return count


def _compare(client: httpx2.Client, project: str, accounts: list[Written]) -> list[str]:
    rows = client.get("/observations/recent", params={"project": project, "limit": 1000}).json()
    there = Counter(row["content"] for row in rows)
    wanted = {content for mine in accounts for content in (*mine.contents, *([mine.topic] if mine.topic else []))}
    ids = {content: id_ for mine in accounts for content, id_ in mine.contents.items()}
    problems = [f"{project}: lost {content!r}" for content in sorted(wanted - there.keys())]
    problems += [f"{project}: {content!r} is there, nobody wrote it" for content in sorted(there.keys() - wanted)]
    problems += [f"{project}: {content!r} is there {n} times" for content, n in there.items() if n > 1]
    problems += [
        f"{project}: {row['content']!r} has id {row['id']}, acknowledged was {ids[row['content']]}"
        for row in rows
        if ids.get(row["content"], row["id"]) != row["id"]
    ]
    return problems


def _observation(project: str, writer: int, content: str) -> dict[str, Any]:
    session = f"{project}-{writer}"
    return {"session_id": session, "type": "discovery", "title": "said", "content": content, "project": project}


def _topic(writer: int) -> str:
    return f"writers/{writer}"
