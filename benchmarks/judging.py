"""What judging with few labels promises, on simulated models: errors, power, bias, and the regret that chose defaults.

`python -m benchmarks.judging [--cases N] [--json OUT]`

A *case* is a pair of models with a given share of images that only one of them has right. Each line has its 95 %
interval. Regret is how far the deployed model's true accuracy lies below the best model trained so far, mean over the
rounds of 200 simulated projects.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from al_core.judging.duels import Tally, evidence
from al_core.judging.evaluation import wilson

ENOUGH = 20  # 1 / (1 - gate.confidence)
TOLERANCE, DUEL_LABELS = 0.01, 20
RESERVED = 5_000
TIED = 0.002
PROJECTS, ROUNDS = 200, 10


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    result = {
        "promoted though worse by the tolerance": errors(options.cases),
        "promoted when it halves an error of 2.6 %": power(options.cases),
        "bias of the holdout in a finite pool (points)": bias(),
        "deployment regret (points) and duel labels paid": regrets(),
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


def bias(seeds: int = 200, pool: int = 1_300, rounds: int = 30, budget: int = 20) -> dict[str, str]:
    """A strategy takes the hard images; control images are drawn from the rest, or from a reserve it never sees."""
    found = {}
    for name, reserve in (
        ("control drawn from what is left over (before)", 0.0),
        ("control drawn from the reserve", 0.2),
    ):
        gaps = []
        for seed in range(seeds):
            generator = np.random.default_rng(seed)
            hard = generator.beta(0.3, 9, size=pool + 20_000)  # probability that the model is wrong; the rest is a test
            doubts = hard + 0.02 * generator.standard_normal(len(hard))
            reserved, free, drawn = generator.random(pool) < reserve, np.ones(pool, bool), []
            for _ in range(rounds):
                slice_ = np.flatnonzero(free & reserved) if reserve else np.flatnonzero(free)
                control = generator.permutation(slice_)[:2]
                drawn += control.tolist()
                free[control] = False
                rest = np.flatnonzero(free & ~reserved)
                free[rest[np.argsort(-doubts[rest])[: budget - len(control)]]] = False
            gaps.append(hard[pool:].mean() - hard[drawn].mean())
        mean, error = 100 * float(np.mean(gaps)), 196 * float(np.std(gaps)) / np.sqrt(seeds)
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
    lost, paid = [], []
    for project in range(PROJECTS):
        generator = np.random.default_rng(project)
        errors = 0.3 * np.arange(1, ROUNDS + 1) ** -1.1 * np.exp(0.2 * generator.standard_normal(ROUNDS))
        images = held_out + reserved if tolerance is not None else 298
        hard = generator.random(images)
        # whom a model gets wrong: the hard images, with some luck of its own
        wrong = np.stack([hard + 0.25 * error * generator.standard_normal(images) > 1 - error for error in errors])
        truths = 1 - errors
        serving, asked, below = 0, set(range(held_out)), []
        duels = 0
        for newest in range(1, ROUNDS):
            for challenger in (newest, newest - 1):
                if challenger > serving and better(wrong, serving, challenger, asked, tolerance):
                    serving = challenger
                    break
            below.append(truths[: newest + 1].max() - truths[serving])
            if tolerance is not None and newest > serving:
                differ = np.flatnonzero(wrong[newest] != wrong[serving])
                chosen = [int(one) for one in differ if int(one) not in asked][:labels]
                asked |= set(chosen)
                duels += len(chosen)
        lost.append(100 * float(np.mean(below)))
        paid.append(duels)
    mean, error = float(np.mean(lost)), 1.96 * float(np.std(lost)) / np.sqrt(PROJECTS)
    return f"{mean:.2f} [{mean - error:.2f}, {mean + error:.2f}]   {np.mean(paid):.0f} labels"


def better(wrong: np.ndarray, champion: int, challenger: int, asked: set[int], tolerance: float | None) -> bool:
    """Whether the challenger passes; without a tolerance by the sign test of before."""
    scores = wrong[champion].astype(int) - wrong[challenger].astype(int)
    if tolerance is None:
        won, lost = int((scores == 1).sum()), int((scores == -1).sum())
        return won + lost > 0 and binomtest(won, won + lost, alternative="greater").pvalue < 0.05
    unasked = [int(one) for one in np.flatnonzero(scores) if int(one) not in asked]
    known = scores[: unasked[0] if unasked else len(scores)]
    return bool(evidence(counted(known), -tolerance)[0] >= ENOUGH)


def sample(generator: np.random.Generator, won: float, lost: float, size: int) -> np.ndarray:
    """Scores of images in random order; 2 where both are wrong, differently."""
    return generator.choice([1, -1, 2, 0], size=size, p=[won, lost, TIED, 1 - won - lost - TIED])


def looks(scores: np.ndarray, tolerance: float, batches: int) -> set[str]:
    """The verdicts of all looks: one after every batch of labels, until there is none left to ask for."""
    differ, size = np.flatnonzero(scores), 10 if batches > 2 else DUEL_LABELS
    verdicts = set()
    for batch in range(1, batches + 1):
        end = differ[batch * size] if batch * size < len(differ) else len(scores)
        count = counted(scores[:end])
        verdicts.add("better" if evidence(count, -tolerance)[0] >= ENOUGH else "open")
        if end == len(scores):
            break
    return verdicts


def counted(scores: np.ndarray) -> Tally:
    """How many images there are of each score."""
    return Tally(*(int((scores == score).sum()) for score in (1, -1, 2, 0)))


if __name__ == "__main__":
    main()
