"""Sockets and HTTP outside the Kubernetes API: listen, serve and drain, resolve, retry.

Every role listens and dials through here, so that a pod of the local plane (which shares the host's
network, and perhaps its file system) behaves as on a cluster without any role knowing.
"""
