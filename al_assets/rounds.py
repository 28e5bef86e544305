"""Rounds: the one partitioning of the loop. A round is selected, labeled, trained and deployed under one key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import dagster as dg

from al_assets.failures import told_once
from al_assets.loop_names import BETWEEN, ROUND, THE_LOOP, LoopNames
from al_core.errors import GiveUp


def round_key(number: int) -> str:
    """The partition key of a round: zero-padded, so that keys sort like numbers."""
    return f"{number:04d}"


def round_of(key: str) -> int:
    """The number of the round behind a partition key; `14` is round 14, too.

    Raises:
        GiveUp: the key is no round's.
    """
    if re.fullmatch("[0-9]{1,9}", key) is None:
        raise GiveUp(
            f"partition {key!r} is no round: rounds are called by their numbers, like {round_key(14)}. Delete it, and "
            "let the schedule or the sensor open the next one"
        )
    return int(key)


def checked_round_key(key: str) -> str:
    """A key as somebody typed it, where it is a round's own. Raises `GiveUp`, also for `14`: round 14 is `0014`."""
    own = round_key(round_of(key.strip()))
    if key != own:
        raise GiveUp(f"partition {key!r} would be a second name of round {int(own)}: type {own}")
    return key


def round_of_run(context: dg.AssetExecutionContext) -> int:
    """The round that a run is about. Raises `dg.Failure`, which is not retried, where its partition is no round's."""
    with told_once():
        return int(checked_round_key(context.partition_key))


def open_rounds(
    instance: dg.DagsterInstance, log: Callable[[str], None] = lambda line: None, loop: LoopNames = THE_LOOP
) -> list[int]:
    """The rounds of a loop that were opened so far, ascending.

    Partitions are mended where they were made past the check of keys: `14` becomes `0014`; what is no round is passed
    over and told to `log`.
    """
    name = loop.round_partitions
    numbers = set()
    for key in instance.get_dynamic_partitions(name):
        try:
            number = round_of(key)
        except GiveUp as error:
            log(str(error))
            continue
        numbers.add(number)
        if key != round_key(number):
            instance.add_dynamic_partitions(name, [round_key(number)])
            instance.delete_dynamic_partition(name, key)
            log(f"partition {key!r} is called {round_key(number)!r} now, as rounds are")
    return sorted(numbers)


def checking_rounds(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """The instance, refusing partitions that are no rounds: for the process behind the pages in which people type."""
    add = instance.add_dynamic_partitions

    def checked_add(partitions_def_name: str, partition_keys: Iterable[str]) -> None:
        keys = list(partition_keys)
        rounds = partitions_def_name.rpartition(BETWEEN)[2] == ROUND
        add(partitions_def_name, [*map(checked_round_key, keys)] if rounds else keys)

    instance.add_dynamic_partitions = checked_add  # type: ignore[method-assign]
    return instance
