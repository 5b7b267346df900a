"""Numbers as one reads them, and as JSON holds them."""

import json
from collections.abc import Sequence
from typing import Any


def row(values: Sequence[float]) -> str:
    """Write numbers one after another."""
    return " ".join(f"{value:.4g}" for value in values) or "none"


def span(values: Sequence[float]) -> str:
    """Write the least and the largest of some numbers."""
    return f"{min(values):.3g} to {max(values):.3g}" if values else "not seen"


def duration(hours: float) -> str:
    """Write a time in the unit that one would say it in."""
    for size, least, name in ((8766.0, 2, "years"), (24.0, 2, "days"), (1.0, 1, "h"), (1 / 60, 1, "min")):
        if hours >= least * size:
            return f"{hours / size:.1f} {name}"
    return f"{3600 * hours:.0f} s"


def parts(values: dict[str, str]) -> str:
    """Write what a whole is made of."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def as_json(content: Any) -> Any:
    """Return what JSON can hold: a number that is not finite by its name."""
    return json.loads(json.dumps(content), parse_constant=str)
