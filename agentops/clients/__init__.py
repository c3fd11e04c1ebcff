"""Clients of our own services: agent pods, the memory service, and runs as a person follows them."""
