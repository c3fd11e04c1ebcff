"""Schemas: one tree for built-in kinds and CRDs, and what is done with it.

`structural` is the tree, `builtin` finds the built-in kinds' schemas, `pruning` drops and reports
unknown fields, `defaulting` fills in, `validation` checks values, `crd_rules` checks the schemas of
CRDs, `cel` their rules.
"""
