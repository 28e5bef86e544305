"""Names that nobody knows, answered with those that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from al_core.encoders.contract import NoEncoder


def unknown_name(what: str, name: str, known: Sequence[str], otherwise: str) -> NoEncoder:
    """The error for a model that does not exist: the nearest names, or else where all of them are listed."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else otherwise
    return NoEncoder(f"unknown {what}: {hint}")
