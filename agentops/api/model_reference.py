"""Which provider and which of its models a text like `local/smollm2` means: one rule for Agent, operator and runtime.

The text is split at the first slash when what stands before it is a bound provider. Otherwise, and only
when `primaryProvider` is set, the whole text is a model of that one (OpenRouter's ids contain slashes);
a prefix that is nobody's is an error, because a typo would else reach the wrong account.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen


@frozen(slots=True)
class ModelReference:
    """A model of one bound provider."""

    provider: str
    model: str


class BadModelReference(ValueError):
    """The text leads nowhere; the message says why and what to write instead."""


class AmbiguousModel(BadModelReference):
    """A bare model with several providers to choose from: `primaryProvider` has to say which."""


def find_model(text: str, bound: Collection[str], primary: str | None) -> ModelReference:
    """`text` as a model of one of the providers `bound`, in order. Raises BadModelReference."""
    prefix, slash, model = text.partition("/")
    if slash and prefix in bound:
        if not model:
            raise BadModelReference(f"{text!r} names a provider but no model")
        return ModelReference(prefix, model)
    if primary:
        return ModelReference(primary, text)
    if slash:
        names = ", ".join(bound) or "none"
        raise BadModelReference(
            f"{text!r}: {prefix!r} is not one of the bound providers ({names}); add it to spec.providerRefs or fix the "
            "prefix, or set primaryProvider to take the whole text as its model"
        )
    if len(bound) > 1:
        raise AmbiguousModel(
            f"{text!r} has no provider prefix and several providers are bound; "
            f"set primaryProvider or write provider/{text}"
        )
    return ModelReference(next(iter(bound), ""), text)
