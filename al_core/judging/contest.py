"""Who serves, who asks, and about which images people are asked: the loop's rules, given the verdicts.

Production and simulation call these with verdicts of their own. A model goes by a number; newer ones have larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import polars as pl

from al_core.judging.duels import asking_order, next_images
from al_core.judging.truth import Reserve
from al_core.records import GateVerdict

CHALLENGERS = 3  # the newest, and those before it: labels of the newest one's duels decide theirs, too
Verdict = Callable[[int], GateVerdict]


def challengers(models: Iterable[int], serving: int | None) -> list[int]:
    """Who may take the place of the model that serves: the newest ones that are newer, the newest first."""
    newer = sorted((model for model in models if serving is None or model > serving), reverse=True)
    return newer[:CHALLENGERS]


def who_takes_over(candidates: Sequence[int], verdict: Verdict) -> int | None:
    """The newest that is better than who serves; None: who serves goes on."""
    return next((model for model in candidates if verdict(model).passed), None)


def who_asks(candidates: Sequence[int], serving: int, verdict: Verdict) -> int:
    """The newest that is not proven worse than who serves: it selects, and the next training goes on from it."""
    return next((model for model in candidates if verdict(model).outcome != "worse"), serving)


def whom_to_judge(candidates: Sequence[int], verdict: Verdict) -> int | None:
    """Whose duel with the model that serves the next batch is about: the newest, while its verdict is open."""
    newest = next(iter(candidates), None)
    return newest if newest is not None and verdict(newest).outcome == "open" else None


def duels(
    pairing: pl.DataFrame,
    holdout: Collection[str],
    reserve: Reserve,
    *,
    known: Collection[str],
    count: int,
) -> list[dict[str, Any]]:
    """The next images on which the two disagree, as rows of `SELECTIONS`; at most `count`.

    Args:
        pairing: Both answers, rows of `duels.PAIRING`.
        holdout: Images that measure and have their label.
        reserve: Which images may judge.
        known: Images that have or wait for a label.
        count: How many; fewer, or none, where there are no more.
    """
    waiting = next_images(pairing, asking_order(pairing, holdout, reserve), known)
    chosen = waiting[: max(0, count)]
    answers = {row["image_id"]: row for row in pairing.iter_rows(named=True)}
    return [
        {
            "image_id": image_id,
            "image_uri": answers[image_id]["image_uri"],
            "image_hash": answers[image_id]["image_hash"],
            "challenger_answer": answers[image_id]["challenger"],
            "champion_answer": answers[image_id]["champion"],
            "propensity": len(chosen) / len(waiting),
        }
        for image_id in chosen
    ]
