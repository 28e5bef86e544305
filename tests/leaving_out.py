"""Tests whose means are not on every machine: named at the end of a run, or failed where somebody requires them."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

LEFT_OUT = pytest.StashKey[list[str]]()


def leave_out(request: pytest.FixtureRequest, hint: str, required_by: str) -> NoReturn:
    """What asks for something that is not here is named at the end; where this variable is set, it fails."""
    if os.environ.get(required_by):
        pytest.fail(f"{required_by} is set, and left out would be {hint}")
    request.config.stash[LEFT_OUT].append(hint)
    pytest.skip(hint)
