"""Pure values: no I/O, no Kubernetes client, nothing above this layer.

`kinds` names API resources, `clock` is the one source of time, `quantity` and `duration` parse the
Kubernetes and Go notations, `selector` matches labels, `names` makes DNS-safe object names.
"""
