"""The CEL functions Kubernetes adds: lists, regular expressions, quantities, addresses, URLs.

Quantities are handed around as their canonical text behind a marker, because the engine has no
opaque Python values.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from agentops.values.quantity import parse_quantity

MATCHES = "bounded_matches"
"""What `matches` is compiled to: the engine's own sets no limit to what a pattern may cost."""
_REGEX_COST = 40_000_000
"""Length of a text times length of a pattern that may meet: where Kubernetes' budget for one rule ends."""


def _regex(text: str, pattern: str) -> Any:
    from agentops.local.apiserver.schema.validation import compiled

    if len(text) * len(pattern) > _REGEX_COST:
        raise ValueError("call cost exceeds limit")
    return compiled(pattern)


def _matches(text: str, pattern: str) -> bool:
    return _regex(text, pattern).search(text) is not None


def _find(text: str, pattern: str) -> str:
    found = _regex(text, pattern).search(text)
    return found.group(0) if found else ""


def _find_all(text: str, pattern: str) -> list[str]:
    return [match.group(0) for match in _regex(text, pattern).finditer(text)]


def _is(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _absolute(text: str) -> str:
    parts = urlsplit(text)
    if not (parts.scheme and (parts.netloc or text.startswith("/"))) and not text.startswith("/"):
        raise ValueError(f"not an absolute URL: {text}")
    return text


_PREFIX = "quantity:"


def _quantity(text: str) -> str:
    parse_quantity(text)
    return _PREFIX + text


def _amount(text: str) -> Decimal:
    return parse_quantity(text.removeprefix(_PREFIX))


def _compare(left: str, right: str) -> int:
    a, b = _amount(left), _amount(right)
    return (a > b) - (a < b)


def _is_sorted(items: list[Any]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(items))


def _index(items: list[Any], wanted: Any) -> int:
    return items.index(wanted) if wanted in items else -1


def _last_index(items: list[Any], wanted: Any) -> int:
    return next((i for i in range(len(items) - 1, -1, -1) if items[i] == wanted), -1)


def _url(text: str) -> dict[str, str]:
    parts = urlsplit(_absolute(text))
    port = str(parts.port or "")
    return {
        "scheme": parts.scheme,
        "host": parts.netloc.rpartition("@")[2],
        "hostname": parts.hostname or "",
        "port": port,
        "path": parts.path,
    }


def _cidr(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def _contains(outer: str, inner: str) -> bool:
    network, part = ipaddress.ip_network(outer, strict=False), ipaddress.ip_network(inner, strict=False)
    if network.version != part.version:
        return False
    return part.network_address in network and part.prefixlen >= network.prefixlen


def kubernetes_functions() -> list[Any]:
    """Declarations for a CelExtension."""
    from cel_expr_python import cel

    t = cel.Type
    items = t.List(t.DYN)

    def declare(name: str, *overloads: tuple[str, Any, list[Any], bool, Callable[..., Any]]) -> Any:
        return cel.FunctionDecl(
            name,
            [
                cel.Overload(key, return_type=result, parameters=parameters, is_member=member, impl=impl)
                for key, result, parameters, member, impl in overloads
            ],
        )

    return [
        declare(
            "isSorted",
            ("list_is_sorted", t.BOOL, [items], True, _is_sorted),
        ),
        declare("sum", ("list_sum", t.DYN, [items], True, sum)),
        declare("min", ("list_min", t.DYN, [items], True, min)),
        declare("max", ("list_max", t.DYN, [items], True, max)),
        declare("indexOf", ("list_index_of", t.INT, [items, t.DYN], True, _index)),
        declare("lastIndexOf", ("list_last_index_of", t.INT, [items, t.DYN], True, _last_index)),
        declare("url", ("string_to_url", t.MAP, [t.STRING], False, _url)),
        declare("getScheme", ("url_scheme", t.STRING, [t.MAP], True, lambda u: u["scheme"])),
        declare("getHost", ("url_host", t.STRING, [t.MAP], True, lambda u: u["host"])),
        declare("getHostname", ("url_hostname", t.STRING, [t.MAP], True, lambda u: u["hostname"])),
        declare("getPort", ("url_port", t.STRING, [t.MAP], True, lambda u: u["port"])),
        declare("getEscapedPath", ("url_path", t.STRING, [t.MAP], True, lambda u: u["path"])),
        declare("ip", ("string_to_ip", t.STRING, [t.STRING], False, lambda s: str(ipaddress.ip_address(s)))),
        declare("cidr", ("string_to_cidr", t.STRING, [t.STRING], False, _cidr)),
        declare("containsIP", ("cidr_contains_ip", t.BOOL, [t.STRING, t.STRING], True, _contains)),
        declare("containsCIDR", ("cidr_contains", t.BOOL, [t.STRING, t.STRING], True, _contains)),
        declare(
            MATCHES,
            ("bounded_matches", t.BOOL, [t.STRING, t.STRING], False, _matches),
            ("bounded_matches_string", t.BOOL, [t.STRING, t.STRING], True, _matches),
        ),
        declare("find", ("string_find", t.STRING, [t.STRING, t.STRING], True, _find)),
        declare("findAll", ("string_find_all", t.List(t.STRING), [t.STRING, t.STRING], True, _find_all)),
        declare("isURL", ("is_url", t.BOOL, [t.STRING], False, _is(_absolute))),
        declare("isIP", ("is_ip", t.BOOL, [t.STRING], False, _is(ipaddress.ip_address))),
        declare("isCIDR", ("is_cidr", t.BOOL, [t.STRING], False, _is(lambda s: ipaddress.ip_network(s, strict=False)))),
        declare("isQuantity", ("is_quantity", t.BOOL, [t.STRING], False, _is(parse_quantity))),
        declare("quantity", ("string_to_quantity", t.STRING, [t.STRING], False, _quantity)),
        declare("compareTo", ("quantity_compare", t.INT, [t.STRING, t.STRING], True, _compare)),
        declare("isGreaterThan", ("quantity_gt", t.BOOL, [t.STRING, t.STRING], True, lambda a, b: _compare(a, b) > 0)),
        declare("isLessThan", ("quantity_lt", t.BOOL, [t.STRING, t.STRING], True, lambda a, b: _compare(a, b) < 0)),
        declare("asInteger", ("quantity_int", t.INT, [t.STRING], True, lambda a: int(_amount(a)))),
    ]
