"""The agent runtime: what runs inside an agent pod.

`daemon` and `task` are the two ways to run it, `assembly` puts one together from `settings`. `agent`
owns the conversation and the one turn at a time, `turn` is the loop of model calls and tools,
`providers` reaches models, `tools` does what they ask, `store` keeps what must not be lost, `events`
and `sse` stream what happens, `http` is the interface.
"""
