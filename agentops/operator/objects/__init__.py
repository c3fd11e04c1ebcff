"""Pure translation: a spec and its resolved inputs in, one manifest dict out.

No module here does I/O, reads a clock or mutates its arguments; every builder has a golden file in
tests/unit/operator/golden/. `names` and `meta` are what the others share.
"""
