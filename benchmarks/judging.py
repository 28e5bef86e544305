"""What judging with few labels promises: errors, power, the regret that chose defaults, and no bias of the holdout.

`python -m benchmarks.judging [--cases N] [--seeds N] [--json OUT]`

A *case* is a pair of simulated models with a given share of images that only one of them has right. Each line has its
95 % interval. Regret is how far the deployed model's true accuracy lies below the best model trained so far, mean over
the rounds of 200 simulated projects. The bias is that of real models on digits, for every strategy (`holdout_bias`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from al_core.judging.contest import challengers
from al_core.judging.duels import AGREED, TIED, UNASKED, evidence, tallies_of
from al_core.judging.evaluation import wilson
from al_core.strategies.registry import STRATEGIES
from benchmarks.holdout_bias import BEFORE, gaps

ENOUGH = 20  # 1 / (1 - gate.confidence)
TOLERANCE, DUEL_LABELS = 0.01, 20
RESERVED = 5_000
BOTH_WRONG = 0.002
PROJECTS, ROUNDS = 200, 10


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=200, help="projects a strategy, of the bias")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    result = {
        "promoted though worse by the tolerance": errors(options.cases),
        "promoted when it halves an error of 2.6 %": power(options.cases),
        "30 duel labels and random ones, disagreement of 7 %": worth(options.cases),
        "deployment regret (points), duel labels paid, projects with a promotion of what is worse by .01": regrets(),
        "accuracy on the holdout minus that on a test set (points)": bias(options.seeds),
    }
    for title, rows in result.items():
        print(f"\n{title}")
        for name, value in rows.items():
            print(f"  {name:58} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


def errors(cases: int) -> dict[str, str]:
    """Looks after every ten duel labels until nothing is left to ask; promoted at any of them."""
    generator, found = np.random.default_rng(0), {}
    for won, lost in ((0.0, 0.01), (0.01, 0.02), (0.03, 0.04), (0.1, 0.11)):
        for reserved in (500, RESERVED):
            promoted = sum(
                "better" in looks(sample(generator, won, lost, reserved), TOLERANCE, batches=reserved // 10)
                for _ in range(cases)
            )
            found[f"wins {won:.3f}, loses {lost:.3f}, {reserved} reserved images"] = str(wilson(promoted, cases))
    return found


def power(cases: int) -> dict[str, str]:
    """Two batches of 20 duel labels; beside it the gate of before, on 298 and 600 holdout labels without tolerance."""
    generator, found = np.random.default_rng(1), {}
    for reserved in (500, 1_000, RESERVED):
        passed = sum(
            "better" in looks(sample(generator, 0.019, 0.006, reserved), TOLERANCE, batches=2) for _ in range(cases)
        )
        found[f"40 duel labels, {reserved} reserved images"] = str(wilson(passed, cases))
    for labels in (298, 600):
        passed = 0
        for _ in range(cases):
            scores = sample(generator, 0.019, 0.006, labels)
            won, lost = int((scores == 1).sum()), int((scores == -1).sum())
            passed += won + lost > 0 and binomtest(won, won + lost, alternative="greater").pvalue < 0.05
        found[f"before: {labels} holdout labels"] = str(wilson(passed, cases))
    return found


def worth(cases: int) -> dict[str, str]:
    """The verdict of 30 labels on disagreements, beside that of random images that are all labeled."""
    generator, found = np.random.default_rng(2), {}
    rows: list[tuple[str, int | None, int]] = [("30 duel labels", 30, RESERVED)]
    rows += [(f"{images} random labels", None, images) for images in (30, 300, 430)]
    for name, labels, images in rows:
        differences, passed = [], 0
        for _ in range(cases):
            scores = generator.choice([1, -1, AGREED], size=images, p=[0.045, 0.025, 0.93])
            end = len(scores) if labels is None else np.flatnonzero(scores)[labels]
            differences.append(scores[:end].mean())
            passed += bool(evidence(tallies_of(scores[:end]), -TOLERANCE)[0] >= ENOUGH)
        found[name] = f"standard error {np.std(differences):.4f}, better: {wilson(passed, cases)}"
    return found


def bias(seeds: int) -> dict[str, str]:
    """Of every strategy, and of the way before: control images drawn from what margin sampling left over."""
    found = {}
    for name in (BEFORE, *sorted(STRATEGIES)):
        gap = 100 * gaps(name, seeds)
        mean, error = float(gap.mean()), 1.96 * float(gap.std()) / np.sqrt(seeds)
        found[name] = f"{mean:+.2f} [{mean - error:+.2f}, {mean + error:+.2f}]"
    return found


def regrets() -> dict[str, str]:
    """Projects whose error falls with the labels, by luck more or less, sometimes rising."""
    rules: list[tuple[str, float, int]] = [
        (f"tolerance {tolerance:g}, {labels} duel labels", tolerance, labels)
        for tolerance in (0.0, 0.005, 0.01)
        for labels in (0, 10, 20, 40)
    ]
    found = {"before: sign test on 298 holdout labels": regret(None, 0)}
    return found | {name: regret(tolerance, labels) for name, tolerance, labels in rules}


def regret(tolerance: float | None, labels: int, reserved: int = 1_500, held_out: int = 100) -> str:
    """Mean regret with its interval, and the mean number of duel labels a project pays; None: the gate of before."""
    lost, paid, fell = [], [], 0
    for project in range(PROJECTS):
        generator = np.random.default_rng(project)
        errors = 0.3 * np.arange(1, ROUNDS + 1) ** -1.1 * np.exp(0.2 * generator.standard_normal(ROUNDS))
        images = held_out + reserved if tolerance is not None else 298
        hard = generator.random(images)
        # whom a model gets wrong: the hard images, with some luck of its own
        wrong = np.stack([hard + 0.25 * error * generator.standard_normal(images) > 1 - error for error in errors])
        truths = 1 - errors
        serving, asked, below = 0, np.arange(images) < held_out, []
        worse = False
        for newest in range(1, ROUNDS):
            for challenger in challengers(range(newest + 1), serving):
                if better(wrong, serving, challenger, asked, tolerance):
                    worse |= bool(truths[challenger] < truths[serving] - TOLERANCE)
                    serving = challenger
                    break
            below.append(truths[: newest + 1].max() - truths[serving])
            if tolerance is not None and newest > serving:
                asked[np.flatnonzero((wrong[newest] != wrong[serving]) & ~asked)[:labels]] = True
        lost.append(100 * float(np.mean(below)))
        paid.append(int(asked.sum()) - held_out if tolerance is not None else 0)
        fell += worse
    mean, error = float(np.mean(lost)), 1.96 * float(np.std(lost)) / np.sqrt(PROJECTS)
    return f"{mean:.2f} [{mean - error:.2f}, {mean + error:.2f}]   {np.mean(paid):.0f} labels   {fell} of {PROJECTS}"


def better(wrong: np.ndarray, champion: int, challenger: int, asked: np.ndarray, tolerance: float | None) -> bool:
    """Whether the challenger passes; without a tolerance by the sign test of before."""
    scores = wrong[champion].astype(int) - wrong[challenger].astype(int)
    if tolerance is None:
        won, lost = int((scores == 1).sum()), int((scores == -1).sum())
        return won + lost > 0 and binomtest(won, won + lost, alternative="greater").pvalue < 0.05
    known = np.where((scores != AGREED) & ~asked, UNASKED, scores)
    return bool(evidence(tallies_of(known), -tolerance)[0] >= ENOUGH)


def sample(generator: np.random.Generator, won: float, lost: float, size: int) -> np.ndarray:
    """Scores of images in random order."""
    return generator.choice([1, -1, TIED, AGREED], size=size, p=[won, lost, BOTH_WRONG, 1 - won - lost - BOTH_WRONG])


def looks(scores: np.ndarray, tolerance: float, batches: int) -> set[str]:
    """The verdicts of all looks: one after every batch of labels, until there is none left to ask for."""
    differ, size = np.flatnonzero(scores != AGREED), 10 if batches > 2 else DUEL_LABELS
    verdicts = set()
    for batch in range(1, batches + 1):
        known = scores.copy()
        known[differ[batch * size :]] = UNASKED
        verdicts.add("better" if evidence(tallies_of(known), -tolerance)[0] >= ENOUGH else "open")
        if batch * size >= len(differ):
            break
    return verdicts


if __name__ == "__main__":
    main()
