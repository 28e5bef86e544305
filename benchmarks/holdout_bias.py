"""Does the holdout flatter? Every strategy on real digits: production's selection and splits, a model that fits fast.

A finite pool of 1 297 images, of which the strategy takes the ones it wants while control images are drawn beside it.
The model is kernel ridge regression on the pixels, which is fitted in milliseconds; its accuracy on the holdout is
compared with that on 500 images outside of the pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import polars as pl

from al_core.dataset import Dataset, build_dataset
from al_core.judging.truth import Reserve
from al_core.learning.contract import LabeledImage
from al_core.records import prediction_table
from al_core.scored_images import ScoredImages
from al_core.selection import NOBODY, Judging, Rules, select_batch, select_seed_batch
from al_core.strategies.context import StrategyContext
from al_core.strategies.registry import get_strategy

CLASSES = tuple("0123456789")
TEST, INITIAL, ROUNDS, BUDGET = 500, 80, 4, 80
RESERVE, SHARE, CONTROL = 0.6, 0.5, 0.3
WIDTH, RIDGE, SHARPNESS = 0.35, 0.1, 8.0  # of the kernel, of the regression, and of the answers' softmax
BEFORE = "random control images of what is left over (before)"


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Pixels (N, 64) from 0 to 1, classes (N,), the kernel (N, N), content ids."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    pixels, targets = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    squares = (pixels**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
    ids = [hashlib.blake2b(b"%d" % row + one.tobytes(), digest_size=16).hexdigest() for row, one in enumerate(pixels)]
    return pixels, targets, np.exp(-WIDTH * np.maximum(distances, 0)), ids


def gaps(strategy: str, seeds: int) -> np.ndarray:
    """Accuracy on the holdout minus accuracy on the test set, one project a seed, shape (seeds,)."""
    return np.array([_Project(strategy, seed).gap() for seed in range(seeds)])


@dataclass
class _Project:
    strategy: str
    seed: int
    reasons: dict[str, str] = field(default_factory=dict)
    answers: list[np.ndarray] = field(default_factory=list)  # of the models so far, (N, C)
    dataset: Dataset | None = None

    def __post_init__(self) -> None:
        _, targets, _, ids = digits()
        order = np.random.default_rng(self.seed).permutation(len(ids))
        self.test, pool = order[:TEST], order[TEST:]
        self.before = self.strategy == BEFORE
        self.reserve = NOBODY if self.before else Reserve(RESERVE, f"project {self.seed}")
        self.row = {ids[place]: int(place) for place in pool}
        self.label = {image_id: CLASSES[targets[row]] for image_id, row in self.row.items()}

    def gap(self) -> float:
        """Plays the project."""
        seed = select_seed_batch(
            {image_id: image_id for image_id in self.row}, hash_of=lambda _: None, budget=INITIAL,
            near_duplicate_distance=-1, seed=self.seed, round_=0, reserve=self.reserve, judging_share=SHARE,
        )  # fmt: skip
        self._learn(0, pl.DataFrame(seed.table))
        for round_ in range(1, ROUNDS + 1):
            self._learn(round_, self._select(round_))
        _, targets, _, _ = digits()
        predicted = self.answers[-1].argmax(axis=1)
        right = predicted == targets
        held_out = [self.row[one] for one in self._held_out()]
        return float(right[held_out].mean() - right[self.test].mean())

    def _held_out(self) -> list[str]:
        assert self.dataset is not None
        if not self.before:
            return self.dataset.rows.filter(split="holdout")["image_id"].to_list()
        return [one for one, reason in self.reasons.items() if reason == "control"]

    def _learn(self, round_: int, batch: pl.DataFrame) -> None:
        self.reasons |= dict(batch.select("image_id", "reason").iter_rows())
        resolved = pl.DataFrame(
            {"image_id": list(self.reasons), "label": [self.label[one] for one in self.reasons], "round": round_}
        )
        self.dataset = build_dataset(
            resolved, reasons=self.reasons, urls={one: one for one in self.reasons}, hashes={}, parent=self.dataset,
            reserve=self.reserve, validation_share=0, near_duplicate_distance=-1, round_=round_,
        )  # fmt: skip
        taught = [one for one in self.dataset.rows.filter(split="train")["image_id"] if self._teaches(one)]
        self.answers.append(_fit([self.row[one] for one in taught]))

    def _teaches(self, image_id: str) -> bool:
        return not (self.before and self.reasons[image_id] == "control")

    def _select(self, round_: int) -> pl.DataFrame:
        pixels, _, _, _ = digits()
        waiting = sorted(self.row.keys() - self.reasons.keys())
        rows = [self.row[one] for one in waiting]
        scored = prediction_table(
            image_ids=waiting, image_uris=waiting, image_hashes=[None] * len(rows), model_name="ridge",
            model_version=round_, classes=CLASSES, probs=self.answers[-1][rows], source="simulation",
            embeddings=pixels[rows],
        )  # fmt: skip
        teaching = ScoredImages(scored, None if self.before else self.reserve.part("teach"))
        measuring = None if self.before else ScoredImages(scored, self.reserve.part("measure"))
        batch = select_batch(
            teaching,
            strategy=get_strategy("margin" if self.before else self.strategy),
            budget=BUDGET,
            rules=Rules(CONTROL, near_duplicate_distance=-1),
            judging=Judging(measuring),
            seed=self.seed * 100 + round_,
            round_=round_,
            model_version=round_,
            context=self._context(),
        )
        return pl.DataFrame(batch.table)

    def _context(self) -> StrategyContext:
        pixels, _, _, _ = digits()

        def embed(images: Sequence[LabeledImage]) -> tuple[np.ndarray, np.ndarray]:
            ids = [image.image_id for image in images]
            return np.array(ids, str), pixels[[self.row[one] for one in ids]]

        def committee(ids: Sequence[str]) -> np.ndarray:
            return np.stack([one[[self.row[image_id] for image_id in ids]] for one in self.answers[-3:]], axis=1)

        return StrategyContext(CLASSES, dataset=lambda: self.dataset, embed=embed, committee=committee)


def _fit(taught: Sequence[int]) -> np.ndarray:
    """Probabilities (N, C) of all digits, by kernel ridge regression on those that teach."""
    _, targets, kernel, _ = digits()
    wanted = np.eye(len(CLASSES))[targets[taught]]
    weights = np.linalg.solve(kernel[np.ix_(taught, taught)] + RIDGE * np.eye(len(taught)), wanted)
    scores = SHARPNESS * (kernel[:, taught] @ weights)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)
