"""Kubernetes quantities: `100m`, `1Gi`, `1e3`.

Two notations of one amount are the same quantity, which is why a desired manifest that says
`1024Mi` must not fight a server that answers `1Gi`.
"""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal, InvalidOperation

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}
_DECIMAL = ("E", "P", "T", "G", "M", "k", "", "m", "u", "n")
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?")


def parse_quantity(value: str | int | float) -> Decimal:
    """The exact amount. Raises ValueError for anything Kubernetes would refuse."""
    text = str(value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write a number with a suffix, such as 100m, 512Mi or 1Gi")
    number, exponent, suffix = match.groups()
    try:
        return Decimal(number + exponent) if exponent else Decimal(number) * _SUFFIXES[suffix or ""]
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a quantity") from error


def format_quantity(amount: Decimal, *, binary: bool = False) -> str:
    """The canonical notation: the largest suffix that leaves a whole number; `binary` takes Ki, Mi, … of whole ones."""
    if amount == 0:
        return "0"
    whole = amount == amount.to_integral_value()
    suffixes = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki", "") if binary and whole else _DECIMAL
    for suffix in suffixes:
        number = amount / _SUFFIXES[suffix]
        if number == number.to_integral_value():
            return f"{int(number)}{suffix}"
    return f"{int((amount / _SUFFIXES['n']).to_integral_value(ROUND_UP))}n"


def quantities_equal(left: str | int | float, right: str | int | float) -> bool:
    """Whether both are quantities of the same amount."""
    try:
        return parse_quantity(left) == parse_quantity(right)
    except ValueError:
        return False
