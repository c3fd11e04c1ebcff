"""The tables, and how an older file becomes a current one.

`MIGRATIONS[n]` takes a file from version n to n+1; a released entry is never edited, only followed. Times are
milliseconds since 1970 (integers compare and subtract; text stamps did neither). The full-text index is external
content over the view of live rows, so even a `rebuild` cannot bring deleted rows back, and its triggers never remove
a row that is not in it.
"""

from __future__ import annotations

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

MIGRATIONS: tuple[str, ...] = (_V1,)
