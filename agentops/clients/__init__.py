"""Clients of the roles that serve HTTP, for the roles that call them."""
