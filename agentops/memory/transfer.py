"""Export and import, as one JSON document or as NDJSON.

The document is `{"exported_at", "sessions": […], "observations": […]}`; NDJSON is a header line and then one record a
line, which both sides stream, so size is bounded by disk only. Both carry each observation's `uuid`: importing twice
adds nothing, and export, wipe, import, export gives the same rows with the same ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from agentops.api.codec import WireError, from_wire
from agentops.api.memory import Observation, Session
from agentops.memory.errors import Forbidden, InvalidRequest, PayloadTooLarge
from agentops.memory.store import Imported, MemoryStore
from agentops.memory.validation import MAX_UUID, check_imported

NDJSON = "application/x-ndjson"
FORMAT = 1
MAX_LINE_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 64 << 20
_BATCH = 500


def parse_record(record: dict[str, Any], number: int, reader: str) -> Session | Observation:
    """The checked row of a record, null being as good as nothing. Raises WireError and Forbidden."""
    record = {name: value for name, value in record.items() if value is not None}
    kind = record.get("kind")
    if kind not in ("session", "observation"):
        raise WireError(f"kind: must be session or observation, not {kind!r:.60}")
    identity = record.get("uuid")
    if identity is not None and (not isinstance(identity, str) or not 0 < len(identity) <= MAX_UUID):
        raise WireError(f"uuid must be a text of 1 to {MAX_UUID} characters")
    row = check_imported(from_wire(Session, record) if kind == "session" else from_wire(Observation, record))
    if reader and row.project != reader:
        raise Forbidden(f"record {number}: this bearer is of project {reader!r}, not of {row.project!r:.60}")
    return row


async def export_lines(store: MemoryStore, project: str, exported_at: str) -> AsyncIterator[bytes]:
    """NDJSON: `{"kind": "header", …}`, then sessions, then observations."""
    yield orjson.dumps({"kind": "header", "format": FORMAT, "exported_at": exported_at}) + b"\n"
    async for page in store.export(project):
        yield b"".join(orjson.dumps(record) + b"\n" for record in page)


async def export_document(store: MemoryStore, project: str, exported_at: str) -> AsyncIterator[bytes]:
    """The one-document form, written piece by piece."""
    yield b'{"exported_at":' + orjson.dumps(exported_at) + b',"sessions":['
    part, comma = "session", b""
    async for page in store.export(project):
        for record in page:
            kind = record.pop("kind")
            if kind != part:
                yield b'],"observations":['
                part, comma = kind, b""
            yield comma + orjson.dumps(record)
            comma = b","
    if part == "session":
        yield b'],"observations":['
    yield b"]}"


async def import_document(store: MemoryStore, body: bytes, reader: str = "") -> Imported:
    """All or nothing. Raises InvalidRequest naming the record, Forbidden for another project's than `reader`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest([f"body is not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise InvalidRequest(["body must be an export document, a JSON object"])
    if "sessions" not in document and "observations" not in document:
        raise InvalidRequest(["body has neither sessions nor observations; send what GET /export gave"])
    records: list[dict[str, Any]] = []
    for key, kind in (("sessions", "session"), ("observations", "observation")):
        rows = document.get(key) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InvalidRequest([f"{key} must be a list of objects"])
        records += [{**row, "kind": kind} for row in rows]
    return await store.import_records(records, reader)


async def import_lines(store: MemoryStore, chunks: AsyncIterator[bytes], reader: str = "") -> Imported:
    """Record by record, a few hundred to a transaction.

    Raises InvalidRequest naming the record, Forbidden for another project's than `reader`. What came before it stays,
    and sending the whole again adds only the rest.
    """
    sessions = observations = skipped = 0
    first = 1
    batch: list[dict[str, Any]] = []

    async def flush() -> None:
        nonlocal sessions, observations, skipped, first
        done = await store.import_records(batch, reader, first)
        first += len(batch)
        sessions += done.imported_sessions
        observations += done.imported_observations
        skipped += done.skipped
        batch.clear()

    number = 0
    async for line in _lines(chunks):
        number += 1
        if not line.strip():
            continue
        record = _record(line, number)
        if record is not None:
            batch.append(record)
        if len(batch) >= _BATCH:
            await flush()
    if batch:
        await flush()
    return Imported(imported_sessions=sessions, imported_observations=observations, skipped=skipped)


def _record(line: bytes, number: int) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest([f"line {number} is not JSON: {error}"]) from error
    if not isinstance(record, dict):
        raise InvalidRequest([f"line {number} must be a JSON object"])
    if record.get("kind") != "header":
        return record
    if record.get("format") != FORMAT:
        raise InvalidRequest([f"line {number}: format {record.get('format')!r:.20} is not known, this reads {FORMAT}"])
    return None


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pending = bytearray()
    async for chunk in chunks:
        pending += chunk
        *whole, rest = pending.split(b"\n")
        for line in whole:
            yield bytes(line)
        pending = rest
        if len(pending) > MAX_LINE_BYTES:
            raise PayloadTooLarge(f"a line is over {MAX_LINE_BYTES} bytes")
    if pending:
        yield bytes(pending)
