"""The tables, and how an older file becomes a current one.

`MIGRATIONS[n]` takes a file from version n to n+1: a script, or a function for what SQL cannot say. A released entry
is never edited, only followed. Times are
milliseconds since 1970 (integers compare and subtract; text stamps did neither). The full-text index is external
content over the view of live rows, so even a `rebuild` cannot bring deleted rows back, and its triggers never remove
a row that is not in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import orjson

from agentops.memory.words import spaced

APPEND_ONLY_TYPES = ("security", "audit")
"""Observation types that are a record: each one is its own row, never merged into or replaced by another."""

_V1 = """
CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    project       TEXT NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    summary       TEXT,
    message_count INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX sessions_by_project ON sessions (project, started_at);

CREATE TABLE observations (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid            TEXT NOT NULL UNIQUE,
    session_id      TEXT NOT NULL REFERENCES sessions (id),
    type            TEXT NOT NULL,
    title           TEXT NOT NULL,
    content         TEXT NOT NULL,
    tags            TEXT NOT NULL DEFAULT '[]',
    project         TEXT NOT NULL,
    scope           TEXT NOT NULL DEFAULT 'project',
    topic_key       TEXT,
    normalized_hash TEXT NOT NULL,
    revision_count  INTEGER NOT NULL DEFAULT 1,
    duplicate_count INTEGER NOT NULL DEFAULT 1,
    last_seen_at    INTEGER NOT NULL,
    promoted_to     TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    deleted_at      INTEGER
) STRICT;
CREATE INDEX observations_by_project ON observations (project, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX observations_by_hash ON observations (normalized_hash, project, scope) WHERE deleted_at IS NULL;
CREATE INDEX observations_by_session ON observations (session_id);
CREATE INDEX observations_global ON observations (created_at, id) WHERE deleted_at IS NULL AND scope = 'global';
CREATE UNIQUE INDEX observations_topic ON observations (topic_key, project, scope)
    WHERE topic_key IS NOT NULL AND deleted_at IS NULL AND type NOT IN ('security', 'audit');

CREATE VIEW observations_live AS
    SELECT id, title, coalesce(topic_key, '') AS topic_key, tags, content FROM observations WHERE deleted_at IS NULL;
CREATE VIRTUAL TABLE observations_fts USING fts5 (
    title, topic_key, tags, content,
    content = 'observations_live', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER observations_insert AFTER INSERT ON observations WHEN new.deleted_at IS NULL BEGIN
    INSERT INTO observations_fts (rowid, title, topic_key, tags, content)
        VALUES (new.id, new.title, coalesce(new.topic_key, ''), new.tags, new.content);
END;
CREATE TRIGGER observations_delete AFTER DELETE ON observations WHEN old.deleted_at IS NULL BEGIN
    INSERT INTO observations_fts (observations_fts, rowid, title, topic_key, tags, content)
        VALUES ('delete', old.id, old.title, coalesce(old.topic_key, ''), old.tags, old.content);
END;
CREATE TRIGGER observations_update AFTER UPDATE OF title, topic_key, tags, content, deleted_at ON observations BEGIN
    INSERT INTO observations_fts (observations_fts, rowid, title, topic_key, tags, content)
        SELECT 'delete', old.id, old.title, coalesce(old.topic_key, ''), old.tags, old.content
        WHERE old.deleted_at IS NULL;
    INSERT INTO observations_fts (rowid, title, topic_key, tags, content)
        SELECT new.id, new.title, coalesce(new.topic_key, ''), new.tags, new.content
        WHERE new.deleted_at IS NULL;
END;
"""

_V2_COLUMNS = """
DROP TRIGGER observations_insert;
DROP TRIGGER observations_delete;
DROP TRIGGER observations_update;
DROP TABLE observations_fts;
DROP VIEW observations_live;

ALTER TABLE observations ADD COLUMN index_title TEXT;
ALTER TABLE observations ADD COLUMN index_tags TEXT;
ALTER TABLE observations ADD COLUMN index_content TEXT;
CREATE INDEX observations_trash ON observations (deleted_at, id) WHERE deleted_at IS NOT NULL;

CREATE TABLE revisions (
    observation_id INTEGER NOT NULL REFERENCES observations (id) ON DELETE CASCADE,
    revision       INTEGER NOT NULL,
    type           TEXT NOT NULL,
    title          TEXT NOT NULL,
    content        TEXT NOT NULL,
    tags           TEXT NOT NULL,
    replaced_at    INTEGER NOT NULL,
    PRIMARY KEY (observation_id, revision)
) STRICT, WITHOUT ROWID;
"""

_V2_INDEX = """
CREATE VIEW observations_live AS
    SELECT id, coalesce(index_title, title) AS title, coalesce(topic_key, '') AS topic_key,
        coalesce(index_tags, tags) AS tags, coalesce(index_content, content) AS content
    FROM observations WHERE deleted_at IS NULL;
CREATE VIRTUAL TABLE observations_fts USING fts5 (
    title, topic_key, tags, content,
    content = 'observations_live', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);
INSERT INTO observations_fts (observations_fts) VALUES ('rebuild');
CREATE TRIGGER observations_insert AFTER INSERT ON observations WHEN new.deleted_at IS NULL BEGIN
    INSERT INTO observations_fts (rowid, title, topic_key, tags, content)
        VALUES (new.id, coalesce(new.index_title, new.title), coalesce(new.topic_key, ''),
            coalesce(new.index_tags, new.tags), coalesce(new.index_content, new.content));
END;
CREATE TRIGGER observations_delete AFTER DELETE ON observations WHEN old.deleted_at IS NULL BEGIN
    INSERT INTO observations_fts (observations_fts, rowid, title, topic_key, tags, content)
        VALUES ('delete', old.id, coalesce(old.index_title, old.title), coalesce(old.topic_key, ''),
            coalesce(old.index_tags, old.tags), coalesce(old.index_content, old.content));
END;
CREATE TRIGGER observations_update
AFTER UPDATE OF title, topic_key, tags, content, index_title, index_tags, index_content, deleted_at ON observations
BEGIN
    INSERT INTO observations_fts (observations_fts, rowid, title, topic_key, tags, content)
        SELECT 'delete', old.id, coalesce(old.index_title, old.title), coalesce(old.topic_key, ''),
            coalesce(old.index_tags, old.tags), coalesce(old.index_content, old.content)
        WHERE old.deleted_at IS NULL;
    INSERT INTO observations_fts (rowid, title, topic_key, tags, content)
        SELECT new.id, coalesce(new.index_title, new.title), coalesce(new.topic_key, ''),
            coalesce(new.index_tags, new.tags), coalesce(new.index_content, new.content)
        WHERE new.deleted_at IS NULL;
END;
"""


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Every statement of `script` in the transaction that is open; `executescript` would commit it."""
    for statement in _statements(script):
        connection.execute(statement)


def index_columns(title: str, tags: str, content: str) -> tuple[str | None, str | None, str | None]:
    """What the index sees instead of the columns themselves, None where it sees them; `tags` is their JSON."""
    return spaced(title), spaced(" ".join(orjson.loads(tags))), spaced(content)


def _v2(connection: sqlite3.Connection) -> None:
    """History of changed rows, and words of scripts without spaces in the index."""
    run_script(connection, _V2_COLUMNS)
    last = 0
    while rows := connection.execute(
        "SELECT id, title, tags, content FROM observations WHERE id > ? ORDER BY id LIMIT 500", (last,)
    ).fetchall():
        last = rows[-1][0]
        columns = [(*index_columns(*row[1:]), row[0]) for row in rows]
        connection.executemany(
            "UPDATE observations SET index_title = ?, index_tags = ?, index_content = ? WHERE id = ?",
            [values for values in columns if any(values[:3])],
        )
    run_script(connection, _V2_INDEX)


def _statements(script: str) -> Iterator[str]:
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise ValueError(f"migration ends in the middle of a statement: {pending.strip()[:60]}")


def _v1(connection: sqlite3.Connection) -> None:
    run_script(connection, _V1)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_v1, _v2)
