"""Rounds: the one partitioning of the loop. A round is selected, labeled, trained and deployed under one key."""

from __future__ import annotations

import dagster as dg

ROUNDS = dg.DynamicPartitionsDefinition(name="round")


def round_key(number: int) -> str:
    """The partition key of a round: zero-padded, so that keys sort like numbers."""
    return f"{number:04d}"


def open_rounds(instance: dg.DagsterInstance) -> list[int]:
    """The rounds that were opened so far, ascending."""
    return sorted(int(key) for key in instance.get_dynamic_partitions(str(ROUNDS.name)))
