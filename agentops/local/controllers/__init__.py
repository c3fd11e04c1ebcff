"""The controllers a cluster's kube-controller-manager would run, for the local plane.

One file per controller, each with a class whose `reconcile` is the table of contents of its kind. What the
world should look like is decided by pure functions (`rollout`, `ordinals`, `daemons`, `jobs`, `ownership`, `volumes`,
`slices`); the controllers read, ask them, and write. They speak to the API server like any client does.
"""
