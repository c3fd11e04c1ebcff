"""The operator: turns the six kinds into Deployments, Jobs, Services, claims, policies and roles.

`reconcilers/` does I/O in the order of each kind's story; `objects/` translates purely, spec in, manifest
out; `wiring` is the table of every watch and index; `app` builds the manager and runs it. Beside them stand
the decisions, values in and values out: `queue` (which run goes next), `rollout` (what a workload's state
means), `inputs` (what an agent's hash covers), `results` (what a finished run leaves in its status).
"""
