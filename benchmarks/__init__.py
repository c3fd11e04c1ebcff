"""How fast the framework is, and how fast others are at the same work.

`python -m benchmarks` runs everything, `python -m benchmarks.<name>` one part; docs/benchmarks.md says what each
measures and by which rules. Nothing here is imported by the product. Modules in `peers` run in an environment of
their own (benchmarks/requirements.txt), so neither they nor this file import anything of ours.
"""
