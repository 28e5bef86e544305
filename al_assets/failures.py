"""What people read of a step that cannot go on: the sentence of the error, once, without retries in vain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from al_core.errors import GiveUp, InvalidInput


@contextmanager
def told_once() -> Iterator[None]:
    """Turn what no retry can change into a failure that Dagster does not retry."""
    try:
        yield
    except (GiveUp, InvalidInput) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
