"""The memory service: what agents remember, on :7437.

    service    builds everything below from options and serves it until SIGTERM
    app        HTTP routes, limits, errors, metrics
    validation request bodies and query strings to values, with every problem at once
    store      what a store must do; sqlite_store and postgres_store do it, by their _finding, _keeping and _moving
    listing    filters, cursors and pages
    rows       database rows to values and back
    retention  how long rows are kept; maintenance sees to it, and to snapshots
    words      text of any script as words
    transfer   export and import as a document or as NDJSON
    query      a user's words to an FTS5 query; never a syntax error
    ranking    which rows win, and what fits into a token budget
    summary    what a session was about, without a model
    postgres   one PostgreSQL server: a pool, the tables
    database   one SQLite file: one writer, a few readers, asserted PRAGMAs, migrations

Wire shapes are in `agentops.api.memory`, shared with every client.
"""
