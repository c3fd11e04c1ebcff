"""One module per kind: I/O in the order of the kind's story. Decisions are made elsewhere, as pure functions."""
