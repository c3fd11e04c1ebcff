"""Object names: checking them, and making safe ones out of arbitrary text."""

from __future__ import annotations

import hashlib
import random
import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_KEY = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""The letters of Kubernetes' generated suffixes: no vowels, so no words; no look-alikes."""


def is_dns1123_label(name: str) -> bool:
    """At most 63 of `[a-z0-9-]`, starting and ending alphanumeric."""
    return len(name) <= 63 and _LABEL.fullmatch(name) is not None


def is_dns1123_subdomain(name: str) -> bool:
    """At most 253: labels joined by dots. What most object names must be."""
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def is_dns1035_label(name: str) -> bool:
    """A DNS label starting with a letter. What Service names must be."""
    return len(name) <= 63 and _DNS1035.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """What the value of a label must be: at most 63 of letters, digits, `-`, `_` and `.`, the ends alphanumeric."""
    return len(text) <= 63 and _LABEL_VALUE.fullmatch(text) is not None


def is_qualified_name(key: str) -> bool:
    """`[prefix/]name`: what keys of labels, annotations and resources must be. The prefix is a DNS subdomain."""
    prefix, slash, name = key.rpartition("/")
    return (not slash or is_dns1123_subdomain(prefix)) and len(name) <= 63 and _KEY.fullmatch(name) is not None


def is_env_name(name: str) -> bool:
    """What Kubernetes accepts as an environment variable name."""
    return _ENV.fullmatch(name) is not None


def env_stem(name: str) -> str:
    """An object's name as the beginning of a variable's: `MY_LLM` for `my-llm`. Different names can have the same."""
    stem = "".join(char if char.isascii() and char.isalnum() else "_" for char in name.upper())
    return f"{'_' if stem[:1].isdigit() else ''}{stem}"


def safe_name(*parts: str, max_length: int = 63) -> str:
    """A DNS label out of `parts` joined by dashes.

    Text that is already a label is kept. Anything changed or cut gets an 8-digit hash of the
    original, so that two different inputs never share a name.
    """
    original = "-".join(parts)
    if len(original) <= max_length and _LABEL.fullmatch(original):
        return original
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    cleaned = re.sub(r"[^a-z0-9]+", "-", original.lower()).strip("-")
    head = cleaned[: max_length - 9].rstrip("-")
    return f"{head}-{digest}" if head else f"x-{digest}"


def random_suffix(rng: random.Random, length: int = 5) -> str:
    """What Kubernetes appends to `generateName`."""
    return "".join(rng.choice(SUFFIX_ALPHABET) for _ in range(length))
