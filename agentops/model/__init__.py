"""A model to try things with, on :8000: a small real one, or a script of turns, in OpenAI's and Anthropic's shapes.

    service       options in, a served backend out
    app           HTTP routes, the record of requests, streaming with disconnects noticed
    wire_openai   /v1/chat/completions        wire_anthropic   /v1/messages
    backend       what answers: a request in, parts out (the only vocabulary the rest shares)
    script        the script format           scripted         plays it
    small         SmolLM2: prompts, explicit and forced tool calls
    engine        llama.cpp in a child process, so that its crashes are sentences
    weights       where the weights are, or how they come here
    journal       every request, readable by tests

It proves plumbing. 135 million parameters do not choose tools; a script says exactly what a test needs.
"""
