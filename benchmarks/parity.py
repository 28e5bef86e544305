"""Whether our strategies learn as much from a label as those of scikit-activeml and small-text, on the same embeddings.

    pip install -e '.[bench]'
    python -m benchmarks.parity [--study FOLDER] [--only TEXT] [--seeds 5] [--initial 20] [--rounds 12] [--budget 20]

FOLDER is the output of an `al simulate --frozen`: its pictures are embedded already. Without one, the pixels of
scikit-learn's digits are taken for embeddings. Both sides have the same pool,
first labels, head (cross-validated softmax regression) and test images, and differ in who chooses the next batch. What
is told is the accuracy at the end, and how far the peer is ahead there and over the curve, with two standard errors
over the seeds.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from al_core.learning.softmax_regression import LinearHead, fit_linear_head
from al_core.strategies.base import Pool
from al_core.strategies.registry import get_strategy
from simulation.datasets import load_data
from simulation.experiment import load_prepared
from simulation.runner import load_study

TEST_DIGITS = 500
COMPONENTS = 256  # principal ones: the peers' time grows with the width
Choose = Callable[["Round", int], np.ndarray]


@dataclass(frozen=True)
class Round:
    """What somebody who chooses is shown."""

    features: np.ndarray  # (N, d) of the whole pool
    labeled: np.ndarray  # positions
    waiting: np.ndarray  # positions, ascending
    targets: np.ndarray  # (L,) of what is labeled
    probs: np.ndarray  # (W, C) for what waits
    head: LinearHead
    classes: int
    seed: int

    @property
    def missing(self) -> np.ndarray:
        """The labels as scikit-activeml wants them: NaN where there is none."""
        labels = np.full(len(self.features), np.nan)
        labels[self.labeled] = self.targets
        return labels


# ---------------------------------------------------------------- who chooses: positions in `waiting`
def ours(name: str) -> Choose:
    """A strategy of this project."""

    def choose(shown: Round, budget: int) -> np.ndarray:
        pool = Pool(
            np.array([f"{position:032x}" for position in shown.waiting]),
            probs=shown.probs,
            embeddings=shown.features[shown.waiting],
            labeled_embeddings=shown.features[shown.labeled],
            labeled_targets=shown.targets,
        )
        return np.asarray(get_strategy(name).query(pool, budget, shown.seed).indices)

    return choose


def skactiveml_scores(method: str) -> Choose:
    """The most uncertain by `skactiveml.pool.uncertainty_scores`."""

    def choose(shown: Round, budget: int) -> np.ndarray:
        from skactiveml.pool import uncertainty_scores  # type: ignore[import-not-found]

        return np.argsort(-uncertainty_scores(shown.probs, method=method), kind="stable")[:budget]

    return choose


def skactiveml(name: str, *, model: bool = False, **options: Any) -> Choose:
    """A strategy of `skactiveml.pool`; with `model`, one that asks the classifier."""

    def choose(shown: Round, budget: int) -> np.ndarray:
        from skactiveml import pool

        strategy = getattr(pool, name)(random_state=shown.seed, **options)
        more = {"clf": _classifier(shown), "fit_clf": False} if model else {}
        picked = strategy.query(shown.features, shown.missing, candidates=shown.waiting, batch_size=budget, **more)
        return np.searchsorted(shown.waiting, picked)

    return choose


def _classifier(shown: Round) -> Any:
    """The head, as scikit-activeml wants a classifier that has been fitted."""
    from skactiveml.classifier import SklearnClassifier  # type: ignore[import-not-found]
    from sklearn.linear_model import LogisticRegression

    model = SklearnClassifier(LogisticRegression(max_iter=1), classes=range(shown.classes))
    model.fit(shown.features[shown.labeled], shown.targets)
    model.estimator_.coef_ = (shown.head.weight / shown.head.temperature).numpy().astype(np.float64)
    model.estimator_.intercept_ = (shown.head.bias / shown.head.temperature).numpy().astype(np.float64)
    model.estimator_.classes_ = np.arange(shown.classes)
    return model


def small_text_strategy(name: str) -> Choose:
    """A strategy of small-text that asks for probabilities."""

    def choose(shown: Round, budget: int) -> np.ndarray:
        from small_text.query_strategies import strategies  # type: ignore[import-not-found]

        class Answered:
            def predict_proba(self, dataset: np.ndarray) -> np.ndarray:
                whole = np.zeros((len(dataset), shown.classes), np.float32)
                whole[shown.waiting] = shown.probs
                return whole

        chosen = getattr(strategies, name)().query(
            Answered(), shown.features, shown.waiting, shown.labeled, shown.targets, n=budget
        )
        return np.searchsorted(shown.waiting, chosen)

    return choose


def small_text_coreset(shown: Round, budget: int) -> np.ndarray:
    """Greedy core-set of small-text, by Euclidean distance.

    It takes its picks, positions among what waits, for rows of the whole: so what waits comes first here.
    """
    from small_text.query_strategies.coresets import greedy_coreset  # type: ignore[import-not-found]

    rows = np.concatenate([shown.waiting, shown.labeled])
    waiting = np.arange(len(shown.waiting))
    labeled = np.arange(len(shown.waiting), len(rows))
    return np.asarray(greedy_coreset(shown.features[rows], waiting, labeled, budget, distance_metric="euclidean"))


PAIRS: tuple[tuple[str, str, Choose], ...] = (
    ("margin", "scikit-activeml, margin sampling", skactiveml_scores("margin_sampling")),
    ("margin", "small-text, BreakingTies", small_text_strategy("BreakingTies")),
    ("entropy", "scikit-activeml, entropy", skactiveml_scores("entropy")),
    ("least_confidence", "small-text, LeastConfidence", small_text_strategy("LeastConfidence")),
    ("badge", "scikit-activeml, Badge", skactiveml("Badge", model=True)),
    ("k_center_greedy", "scikit-activeml, CoreSet", skactiveml("CoreSet")),
    ("k_center_greedy", "small-text, greedy_coreset", small_text_coreset),
    ("typiclust", "scikit-activeml, TypiClust", skactiveml("TypiClust")),
    ("max_herding", "scikit-activeml, MaxHerding", skactiveml("MaxHerding")),
)


# ---------------------------------------------------------------- the loop
@dataclass(frozen=True)
class Task:
    """One seed: pool and test images with their classes, and which of the pool are labeled first."""

    features: np.ndarray
    targets: np.ndarray
    test_features: np.ndarray
    test_targets: np.ndarray
    first: np.ndarray
    classes: int
    seed: int


def learned(task: Task, choose: Choose, rounds: int, budget: int) -> np.ndarray:
    """Accuracy on the test images after each round, the first labels before them."""
    labeled, accuracies = task.first, []
    weights = torch.ones(task.classes)
    for round_ in range(rounds + 1):
        known = torch.from_numpy(task.targets[labeled])
        head = fit_linear_head(torch.from_numpy(task.features[labeled]), known, weights)
        accuracies.append(float((_answers(head, task.test_features).argmax(1) == task.test_targets).mean()))
        if round_ == rounds:
            break
        waiting = np.setdiff1d(np.arange(len(task.features)), labeled)
        shown = Round(
            task.features, labeled, waiting, task.targets[labeled], _answers(head, task.features[waiting]), head,
            task.classes, task.seed * 1000 + round_,
        )  # fmt: skip
        picked = choose(shown, budget)
        assert len(set(picked.tolist())) == budget, "a batch is so many different images"
        labeled = np.concatenate([labeled, waiting[picked]])
    return np.array(accuracies)


def _answers(head: LinearHead, features: np.ndarray) -> np.ndarray:
    logits = torch.from_numpy(features) @ head.weight.T + head.bias
    return np.asarray((logits / head.temperature).softmax(dim=1).numpy())


def tasks(study_folder: Path | None, seeds: int, initial: int, pool_size: int) -> list[Task]:
    """The pictures of a study, embedded by its encoder, or the digits; principal components of mean length one."""
    if study_folder is None:
        data, embeddings, test_images = load_data("digits"), digit_pixels(), TEST_DIGITS
    else:
        study = load_study(study_folder)
        data, test_images = load_data(study.data), study.test_images
        found = load_prepared(data, study_folder / "images").embeddings
        assert found is not None, f"{study_folder} has no embeddings: it was made without --frozen"
        embeddings = found
    row = {image.image_id: place for place, image in enumerate(data.images)}
    features, number = _narrowed(embeddings), {name: place for place, name in enumerate(data.classes)}
    made = []
    for seed in range(seeds):
        pool, test = data.split(seed, test_images)
        drawn = np.random.default_rng(seed)
        pool = [pool[position] for position in drawn.permutation(len(pool))[:pool_size]]
        rows, test_rows = ([row[image.image_id] for image in some] for some in (pool, test))
        made.append(
            Task(
                features[rows], np.array([number[image.label] for image in pool]), features[test_rows],
                np.array([number[image.label] for image in test]), drawn.permutation(len(pool))[:initial],
                len(data.classes), seed,
            )
        )  # fmt: skip
    return made


def digit_pixels() -> np.ndarray:
    """(N, 64) grey values, in the order of the images' ids."""
    data = load_data("digits")
    return np.stack([_grey(data.read(image.uri)) for image in data.images])


def _grey(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(picture)).convert("L").resize((8, 8)), np.float32).ravel()


def _narrowed(embeddings: np.ndarray) -> np.ndarray:
    centred = embeddings - embeddings.mean(0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
    features = (centred @ directions).astype(np.float32)
    return np.asarray(features / np.linalg.norm(features, axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="output folder of an `al simulate --frozen`")
    for name, default in (("seeds", 5), ("initial", 20), ("rounds", 12), ("budget", 20), ("pool", 3_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="pairs with this in the peer's name")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if missing := [name for name in ("skactiveml", "small_text") if find_spec(name) is None]:
        print(f"{' and '.join(missing)} are not installed: pip install -e '.[bench]'")
        return
    warnings.filterwarnings("ignore")  # the peers' own, about versions
    seeds = tasks(options.study, options.seeds, options.initial, options.pool)
    curves: dict[str, np.ndarray] = {}
    rows = []
    print(f"{'ours':17} {'end':>5}  {'peer':34} {'end':>5}  peer ahead, points: at the end, over the curve")
    for name, peer, choose in (pair for pair in PAIRS if options.only in pair[1]):
        for who, chooser in ((name, ours(name)), (peer, choose)):
            if who not in curves:
                curves[who] = np.stack([learned(task, chooser, options.rounds, options.budget) for task in seeds])
        ahead = 100 * (curves[peer] - curves[name])
        at_end, over_curve = (_with_error(values) for values in (ahead[:, -1], ahead[:, 1:].mean(1)))
        own, theirs = curves[name][:, -1].mean(), curves[peer][:, -1].mean()
        print(f"{name:17} {own:.3f}  {peer:34} {theirs:.3f}  {at_end}, {over_curve}", flush=True)
        rows.append({"ours": name, "peer": peer, "end": own, "peer_end": theirs, "ahead": ahead.tolist()})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def _with_error(values: np.ndarray) -> str:
    error = 2 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.1f} +-{error:.1f}"


if __name__ == "__main__":
    main()
