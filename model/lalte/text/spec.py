"""What the parts of a tokenizer.json have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMBERS = ("pretokenizers", "normalizers", "processors")


def steps(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer or post-processor, sequences unfolded."""
    if component is None:
        return
    if component.get("type") == "Sequence":
        for key in _MEMBERS:
            for member in component.get(key, []):
                yield from steps(member)
    else:
        yield component


def added_texts(spec: dict[str, Any]) -> set[str]:
    """Return the texts of the tokens that no merge makes: special and user-defined ones."""
    return {str(token["content"]) for token in spec.get("added_tokens", [])}
