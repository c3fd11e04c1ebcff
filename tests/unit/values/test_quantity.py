from decimal import Decimal

import pytest

from agentops.values.quantity import format_quantity, parse_quantity, quantities_equal


@pytest.mark.parametrize(
    ("text", "amount"),
    [("100m", "0.1"), ("1Gi", 2**30), ("1e3", 1000), ("0.5", "0.5"), ("5M", 5_000_000), (2, 2), ("-1Ki", -1024)],
)
def test_suffixes_scale(text: str, amount: object) -> None:
    assert parse_quantity(text) == Decimal(str(amount))


@pytest.mark.parametrize(("left", "right"), [("1024Mi", "1Gi"), ("1000m", 1), ("1e3", "1k")])
def test_two_notations_of_one_amount_are_equal(left: object, right: object) -> None:
    assert quantities_equal(left, right)


@pytest.mark.parametrize("text", ["", "1GB", "Gi", "1 Gi", "abc", "1e"])
def test_what_kubernetes_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="512Mi"):
        parse_quantity(text)
    assert not quantities_equal(text, text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "0"), ("1000", "1k"), ("1024", "1024"), ("0.5", "500m"), ("1.5", "1500m"), ("0.0000000001", "1n")],
)
def test_an_amount_has_one_canonical_notation(amount: str, text: str) -> None:
    assert format_quantity(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("amount", "text"), [("1024", "1Ki"), ("1610612736", "1536Mi"), ("1000", "1000"), ("0.5", "500m")]
)
def test_amounts_of_bytes_are_written_in_powers_of_two(amount: str, text: str) -> None:
    assert format_quantity(Decimal(amount), binary=True) == text
