"""What a study shows and how sure that is: paired over seeds, with intervals, corrected for many comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from al_core.errors import InvalidInput
from al_core.records import Interval

REPLICATES = 5_000
EXACT_SEEDS = 14  # up to here all 2^n sign flips are counted, above they are drawn
BASELINE = "random"


@dataclass(frozen=True)
class Curves:
    """One metric of all strategies on the same seeds and rounds."""

    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    labels: np.ndarray  # (rounds,) labels asked for, the same for all
    values: np.ndarray  # (strategies, seeds, rounds)

    def of(self, strategy: str) -> np.ndarray:
        """Shape (seeds, rounds)."""
        return self.values[self.strategies.index(strategy)]


@dataclass(frozen=True)
class Savings:
    """Random's labels over the labels a strategy needs for random's final accuracy."""

    ratio: float  # nan: never reached
    low: float  # of the interval; nan where even that resample never reached it
    high: float
    never: float  # share of resamples that never reach it

    def __str__(self) -> str:
        if np.isnan(self.ratio):
            return "never"
        return f"{self.ratio:.2f}x [{_or_never(self.low)}, {_or_never(self.high)}]"


@dataclass(frozen=True)
class Comparison:
    """One strategy against another, paired by seed."""

    strategy: str
    against: str
    difference: Interval  # of the means, over seeds
    p: float  # two-sided sign-flip test
    p_corrected: float  # Holm, over the comparisons made together


def curves_of(table: pl.DataFrame, metric: str = "accuracy", start: str = "warm") -> Curves:
    """The complete pairs of a study's table: seeds that all strategies have finished, to the last common round.

    Raises:
        ValueError: no seed is complete for all strategies.
    """
    rows = table.filter(start=start)
    strategies = tuple(sorted(rows["strategy"].unique(), key=lambda name: (name != BASELINE, name)))
    last = int(rows.group_by("strategy", "seed").agg(pl.col("round").max())["round"].max() or 0)  # type: ignore[arg-type]
    whole = rows.group_by("seed").agg(pl.len().alias("rows")).filter(rows=len(strategies) * (last + 1))
    seeds = sorted(whole["seed"])
    if not seeds:
        raise InvalidInput("no seed is finished for all strategies yet; let the study run on")
    ordered = rows.filter(pl.col("seed").is_in(seeds)).sort("strategy", "seed", "round")
    shape = (len(strategies), len(seeds), last + 1)
    alphabetical = sorted(strategies)
    values = ordered[metric].to_numpy().reshape(shape)[[alphabetical.index(name) for name in strategies]]
    asked = ordered["images_asked"].to_numpy().reshape(shape)
    return Curves(strategies, tuple(seeds), asked[0, 0], values)


def mean_interval(values: np.ndarray, confidence: float = 0.95, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Mean over seeds and its percentile bootstrap interval, for values of shape (seeds, ...)."""
    means = _resample(values, seed).mean(axis=1)
    ends = (1 - confidence) / 2
    low, high = np.quantile(means, [ends, 1 - ends], axis=0)
    return values.mean(axis=0), low, high


def area_under(curve: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean height of curves (..., rounds) over the labels, by trapezoids."""
    return np.trapezoid(curve, labels, axis=-1) / (labels[-1] - labels[0])


def label_savings(curves: Curves, strategy: str, baseline: str = BASELINE, seed: int = 0) -> Savings:
    """How many times fewer labels a strategy needs for the accuracy random ends with.

    Read off the mean curves, linearly between rounds; the interval resamples seeds, in pairs.
    """
    own, reference = curves.of(strategy), curves.of(baseline)
    draws = _draws(len(own), seed)
    ratios = np.array([_ratio(own[rows], reference[rows], curves.labels) for rows in draws])
    never = np.isinf(ratios) | (ratios == 0)
    point = _ratio(own, reference, curves.labels)
    # a resample that never gets there is a ratio of zero: the worst there can be
    low, high = np.quantile(np.where(never, 0, ratios), [0.025, 0.975], method="lower")
    return Savings(_nan_if_zero(point), _nan_if_zero(low), _nan_if_zero(high), float(never.mean()))


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of paired differences (n,) under the hypothesis that their signs are chance.

    Exact up to `EXACT_SEEDS` pairs. Source: Fisher (1935), The Design of Experiments.
    """
    count = len(differences)
    observed = abs(differences.mean())
    if count <= EXACT_SEEDS:
        signs = np.array(list(product((-1, 1), repeat=count)))
        return float((np.abs(signs @ differences) / count >= observed - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], size=(20_000, count))
    hits = (np.abs(signs @ differences) / count >= observed - 1e-12).sum()
    return float((hits + 1) / 20_001)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p values corrected so that the chance of any false finding keeps its level (Holm 1979)."""
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values, dtype=float)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


def against_baseline(
    curves: Curves, value: Callable[[np.ndarray], np.ndarray], baseline: str = BASELINE
) -> list[Comparison]:
    """Every strategy against the baseline in one number per seed, like the final accuracy; nothing without a baseline.

    Args:
        curves: The study.
        value: Turns curves (seeds, rounds) into one number per seed.
        baseline: What to compare with.
    """
    others = [name for name in curves.strategies if name != baseline]
    if not others or baseline not in curves.strategies:
        return []
    pairs = [value(curves.of(name)) - value(curves.of(baseline)) for name in others]
    raw = np.array([sign_flip_p(pair) for pair in pairs])
    return [
        Comparison(name, baseline, _interval(pair), float(p), float(corrected))
        for name, pair, p, corrected in zip(others, pairs, raw, holm(raw), strict=True)
    ]


def area_differences(curves: Curves, against: Curves, strategy: str) -> np.ndarray:
    """By how much a strategy's area is larger than in other curves, (seeds,): of the seeds and rounds both have."""
    rounds = min(len(curves.labels), len(against.labels))
    labels = curves.labels[:rounds]
    own, other = (
        {seed: area_under(curve[:rounds], labels) for seed, curve in zip(c.seeds, c.of(strategy), strict=True)}
        for c in (curves, against)
    )
    return np.array([own[seed] - other[seed] for seed in own if seed in other])


def win_matrix(curves: Curves, level: float = 0.05) -> np.ndarray:
    """Shape (S, S): the share of rounds in which the strategy of the row beats the one of the column.

    A round is won where a two-sided paired t-test over seeds is significant (as in Ash et al. 2020, BADGE).
    Round 0 is the same for all and not counted. With a single seed nothing is significant.
    """
    from scipy.stats import ttest_rel  # type: ignore[import-untyped]

    count, seeds, rounds = curves.values.shape
    wins = np.zeros((count, count))
    if seeds < 2 or rounds < 2:
        return wins
    for row, column in product(range(count), repeat=2):
        if row != column:
            differences = curves.values[row, :, 1:] - curves.values[column, :, 1:]
            constant = np.ptp(differences, axis=0) == 0  # the test divides by the spread
            p = np.where(constant, np.where(differences[0] == 0, 1.0, 0.0), 1.0)
            p[~constant] = ttest_rel(
                curves.values[row, :, 1:][:, ~constant], curves.values[column, :, 1:][:, ~constant]
            ).pvalue
            wins[row, column] = ((p < level) & (differences.mean(axis=0) > 0)).mean()
    return wins


def conclusion(curves: Curves) -> str:
    """Who wins, by how much, and how sure that is, in plain words."""
    seeds, rounds = curves.values.shape[1:]
    if BASELINE not in curves.strategies or len(curves.strategies) < 2:
        return "There is nothing to compare: a study needs random sampling and at least one strategy."
    areas = against_baseline(curves, lambda curve: area_under(curve, curves.labels))
    best = max(areas, key=lambda comparison: comparison.difference.value)
    final = next(c for c in against_baseline(curves, lambda curve: curve[:, -1]) if c.strategy == best.strategy)
    end = final.difference
    at_end = f"{100 * end.value:+.1f} points [{100 * end.low:+.1f}, {100 * end.high:+.1f}]"
    scope = f"{seeds} paired seeds, {rounds - 1} rounds, {int(curves.labels[-1])} labels"
    if best.p_corrected < 0.05 and best.difference.value > 0:
        savings = label_savings(curves, best.strategy)
        saved = "" if np.isnan(savings.ratio) else f", and reaches random's final accuracy with {savings} fewer labels"
        return (
            f"{best.strategy} wins: {100 * best.difference.value:+.1f} points of accuracy over random on average over "
            f"the curve (p = {best.p_corrected:.2g} after correction), {at_end} at the end{saved} ({scope})."
        )
    worst = [c.strategy for c in areas if c.p_corrected < 0.05 and c.difference.value < 0]
    if len(worst) == len(areas):
        return f"Random sampling wins: every strategy is significantly worse over the curve ({scope})."
    return (
        f"No strategy is surely better than random: the best, {best.strategy}, is "
        f"{100 * best.difference.value:+.1f} points over the curve (p = {best.p_corrected:.2g} after correction), "
        f"{at_end} at the end ({scope}); more seeds would tell."
    )


def _interval(values: np.ndarray) -> Interval:
    mean, low, high = mean_interval(values)
    return Interval(value=float(mean), low=float(low), high=float(high))


def _ratio(own: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> float:
    """Of mean curves: labels of the reference over those needed for its final value; 0 where never reached."""
    target, curve = reference.mean(axis=0)[-1], own.mean(axis=0)
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return 0.0
    first = reached[0]
    if first == 0:
        return float(labels[-1] / labels[0])
    part = (target - curve[first - 1]) / (curve[first] - curve[first - 1])
    return float(labels[-1] / (labels[first - 1] + part * (labels[first] - labels[first - 1])))


def _draws(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (REPLICATES, count))


def _resample(values: np.ndarray, seed: int) -> np.ndarray:
    return values[_draws(len(values), seed)]


def _nan_if_zero(value: float) -> float:
    return float(value) if value else float("nan")


def _or_never(value: float) -> str:
    return "never" if np.isnan(value) else f"{value:.2f}"
