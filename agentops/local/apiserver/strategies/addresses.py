"""Ports and addresses as Services, policies and endpoints write them, and what is wrong with them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError

PROTOCOLS = ("SCTP", "TCP", "UDP")
_RANGE = "must be between 1 and 65535, inclusive"
NOT_AN_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_NOT_A_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_LEADING_ZEROS = re.compile(r"(?<![0-9a-fA-F:.])0+(?=[0-9]+\.)|(?<=\.)0+(?=[0-9])")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def validate_port_number(number: Any, at: str) -> Iterator[FieldError]:
    if not isinstance(number, int) or not 0 < number < 65536:
        yield errors.invalid_value(at, number, _RANGE)


def validate_port_name(name: str, at: str) -> Iterator[FieldError]:
    """A name that a container can give to a port."""
    for problem in _port_name_problems(name):
        yield errors.invalid_value(at, name, problem)


def _port_name_problems(name: str) -> Iterator[str]:
    if len(name) > 15:
        yield "must be no more than 15 bytes"
    if not re.fullmatch(r"[-a-z0-9]+", name, re.ASCII):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", name):
        yield "must contain at least one letter (a-z)"
    if "--" in name:
        yield "must not contain consecutive hyphens"
    if name.startswith("-") or name.endswith("-"):
        yield "must not begin or end with a hyphen"


def validate_port(port: Any, at: str) -> Iterator[FieldError]:
    """A number or the name of one."""
    yield from validate_port_name(port, at) if isinstance(port, str) else validate_port_number(port, at)


def parse_address(text: str) -> Address | None:
    """As Go's older parser: zeros may lead a number."""
    try:
        return ipaddress.ip_address(_LEADING_ZEROS.sub("", text))
    except ValueError:
        return None


def parse_network(text: str) -> Network | None:
    """A CIDR; bits beyond the mask are cut off."""
    _, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]+", length, re.ASCII):
        return None
    try:
        return ipaddress.ip_network(_LEADING_ZEROS.sub("", text), strict=False)
    except ValueError:
        return None


def validate_network(text: str, at: str) -> Iterator[FieldError]:
    if parse_network(text) is None:
        yield errors.invalid_value(at, text, _NOT_A_CIDR)


def validate_public_address(text: str, at: str) -> Iterator[FieldError]:
    """An address that others can reach: none of a machine's own."""
    address = parse_address(text)
    if address is None:
        yield errors.invalid_value(at, text, NOT_AN_ADDRESS)
    elif address.is_unspecified:
        yield errors.invalid_value(at, text, f"may not be unspecified ({text})")
    elif address.is_loopback:
        yield errors.invalid_value(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    elif address.is_link_local:
        yield errors.invalid_value(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
