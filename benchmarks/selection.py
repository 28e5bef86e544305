"""Query strategies against other libraries and against the bound of the work, on the same arrays in one process.

    python -m benchmarks.selection [--quick] [--large] [--device cuda] [--only NAME ...] [--log FOLDER]
                                    [--json OUT] [--plot PNG]

Every line is a time (the best of a few runs), the peak of memory above what was held before, and a ratio to
the bound: the least that has to be done, done with one call of numpy (torch on a GPU). Peers come from the
extra `bench`; one that is not installed is left out by name. A peer that would take hours gets less to do, and
its time is scaled up by what it is known to be linear in: such times are marked with ~.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from al_core import uncertainty
from al_core.strategies._arrays import to_device
from al_core.strategies.base import Order, Picks, Pool
from al_core.strategies.registry import get_strategy

BOUND = "bound"
OURS = "ours"


@dataclass
class Line:
    """One measurement."""

    work: str
    tool: str
    seconds: float
    peak_mb: float
    scaled: bool = False  # measured on less, then multiplied


@dataclass
class Target:
    """What a line has to reach; `of` is "bound" or "fastest peer"."""

    work: str
    of: str
    limit: float  # ours / bound at most, or fastest peer / ours at least
    reached: float | None = None

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached <= self.limit if self.of == BOUND else self.reached >= self.limit


@dataclass
class Results:
    lines: list[Line] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    growth: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, work: str, tool: str, run: Callable[[], object], *, repeats: int = 3, scale: float = 1.0) -> float:
        """Measure one tool; `scale` is how much more the whole work is than what `run` does."""
        seconds, peak = measure(run, repeats)
        self.lines.append(Line(work, tool, seconds * scale, peak, scaled=scale != 1))
        print(
            f"  {work:<44} {tool:<18} {'~' if scale != 1 else ' '}{seconds * scale:10.3f} s {peak:9.0f} MB",
            flush=True,
        )
        return seconds * scale

    def time_of(self, work: str, tool: str) -> float | None:
        return next((line.seconds for line in self.lines if (line.work, line.tool) == (work, tool)), None)

    def require(self, work: str, of: str, limit: float) -> None:
        ours, target = self.time_of(work, OURS), Target(work, of, limit)
        peers = [line.seconds for line in self.lines if line.work == work and line.tool not in (OURS, BOUND)]
        bound = self.time_of(work, BOUND)
        if ours and of == BOUND and bound:
            target.reached = ours / bound
        elif ours and of != BOUND and peers:
            target.reached = min(peers) / ours
        self.targets.append(target)

    def peer(self, module: str) -> Any:
        """The module of a peer, or None where it is not installed."""
        package = module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            self.left_out.append(f"{package} is not installed (pip install '.[bench]')")
            return None
        return importlib.import_module(module)


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds of the best run, and MB of the largest peak above what was held before."""
    best, peak = float("inf"), 0.0
    for _ in range(repeats):
        before = _memory("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
        peak = max(peak, _memory("VmHWM") - before)
    return best, peak


def _memory(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# ---------------------------------------------------------------------- data
def probabilities(rows: int, classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    probs = rng.standard_exponential((rows, classes), np.float32)
    probs /= probs.sum(axis=1, keepdims=True)
    return probs


def embeddings(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """100 overlapping classes, with a spectrum that falls off as that of learned embeddings does."""
    rng = np.random.default_rng(seed)
    falling = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    centres = 2 * rng.normal(size=(100, width)).astype(np.float32)
    points = rng.standard_normal((rows, width), np.float32)
    points += centres[rng.integers(0, 100, rows)]
    points *= falling
    return points


def pool_of(device: str, labeled: np.ndarray, rows: np.ndarray, probs: np.ndarray | None = None) -> Pool:
    ids = np.char.zfill(np.arange(len(rows)).astype(str), 32)
    return Pool(
        image_ids=ids,
        probs=None if probs is None else to_device(probs, device),
        embeddings=to_device(rows, device),
        labeled_embeddings=to_device(labeled, device),
        labeled_targets=np.arange(len(labeled)) % 100,
    )


def _query(name: str, pool: Pool, budget: int, **settings: Any) -> Callable[[], Picks]:
    return lambda: get_strategy(name, **settings).query(pool, budget, seed=0)


# ---------------------------------------------------------------------- scores
def scores(results: Results, size: Callable[[int], int], large: bool) -> None:
    """Uncertainty scores of large arrays."""
    kinds = {
        "least confidence": (uncertainty.least_confidence, 4, 2),
        "margin": (uncertainty.margin, 4, 3),
        "entropy": (uncertainty.entropy, 10, 3),
    }
    shapes = [(size(10_000_000), 10), (size(1_000_000), 1000 if large else 250)]
    for rows, classes in shapes:
        probs = probabilities(rows, classes)
        some = probs[: min(rows, 10_000)]
        bound, _ = measure(probs.sum, 5)
        for kind, (ours, of_bound, of_peer) in kinds.items():
            work = f"{kind}, {rows:,} x {classes}"
            results.lines.append(Line(work, BOUND, bound, 0))
            ours(probs[: uncertainty.COMPILED_FROM // classes + 1])  # compiled once
            results.add(work, OURS, lambda ours=ours, probs=probs: ours(probs), repeats=5)
            if peer := results.peer("skactiveml.pool"):
                method = {
                    "least confidence": "least_confident",
                    "margin": "margin_sampling",
                    "entropy": "entropy",
                }
                results.add(
                    work,
                    "scikit-activeml",
                    lambda peer=peer, method=method[kind], probs=probs: (
                        peer.uncertainty_scores(probs, method=method)
                        if hasattr(peer, "uncertainty_scores")
                        else peer._uncertainty_sampling.uncertainty_scores(probs, method=method)
                    ),
                )
            if peer := results.peer("modAL.uncertainty"):
                name = {
                    "least confidence": "_proba_uncertainty",
                    "margin": "_proba_margin",
                    "entropy": "_proba_entropy",
                }
                results.add(work, "modAL", lambda peer=peer, name=name[kind], probs=probs: getattr(peer, name)(probs))
            if peer := results.peer("small_text.query_strategies.strategies"):
                per_row = {
                    "least confidence": lambda some=some: np.amax(some, axis=1),
                    "margin": lambda peer=peer, some=some: np.apply_along_axis(
                        peer.BreakingTies._best_versus_second_best, 1, some
                    ),
                    "entropy": lambda peer=peer, some=some: np.apply_along_axis(peer.entropy, 1, some),
                }
                results.add(work, "small-text", per_row[kind], repeats=1, scale=rows / len(some))
            results.require(work, BOUND, of_bound)
            results.require(work, "fastest peer", of_peer)


# ---------------------------------------------------------------------- greedy picks
def k_center(results: Results, size: Callable[[int], int], device: str) -> None:
    """k-center greedy."""
    rows, width, labels, budget = size(50_000), 512, size(1000), size(1000)
    work = f"k-center, N={rows:,} d={width} L={labels:,} k={budget:,}"
    points = embeddings(rows + labels, width)
    pool = pool_of(device, points[rows:], points[:rows])
    results.add(work, BOUND, products(pool.embeddings, budget), repeats=3)
    results.add(work, OURS, _query("k_center_greedy", pool, budget))
    if device == "cpu":
        few = 10
        if peer := results.peer("skactiveml.pool._core_set"):
            y = np.full(rows + labels, np.nan)
            y[rows:] = 0
            run = peer.k_greedy_center
            everyone = np.arange(rows)
            _per_pick(
                results,
                work,
                lambda count: run(points, y, batch_size=count, mapping=everyone),
                few,
                budget,
            )
        if peer := results.peer("small_text.query_strategies.coresets"):
            run, all_, known = peer.greedy_coreset, np.arange(rows), np.arange(rows, rows + labels)
            seconds, peak = measure(lambda: run(points, all_, known, 1, distance_metric="euclidean"), 1)
            _scaled(results, work, "small-text", seconds * budget, peak)
    results.require(work, BOUND, 1.3)
    results.require(work, "fastest peer", 5)


def products(matrix: Any, count: int) -> Callable[[], object]:
    """`count` matrix-vector products: what a greedy strategy reads, if it reads everything for every pick."""

    def run() -> float:
        total = 0.0
        for row in range(count):
            total += float((matrix @ matrix[row])[0])
        return total

    return run


def _per_pick(results: Results, work: str, run: Callable[[int], object], few: int, budget: int) -> None:
    """scikit-activeml's time for `budget` picks from that for one and for a few: every pick costs the same."""
    once, _ = measure(lambda: run(1), 2)
    more, peak = measure(lambda: run(1 + few), 2)
    _scaled(results, work, "scikit-activeml", once + max(0.0, more - once) / few * (budget - 1), peak)


def _scaled(results: Results, work: str, tool: str, seconds: float, peak: float) -> None:
    results.lines.append(Line(work, tool, seconds, peak, scaled=True))
    print(f"  {work:<44} {tool:<18} ~{seconds:10.3f} s {peak:9.0f} MB", flush=True)


def badge(results: Results, size: Callable[[int], int], device: str) -> None:
    """BADGE, and the same at a size at which its materialised gradients still fit."""
    width, classes, budget = 512, 100, size(500)
    for rows in (size(20_000), size(4000)):
        work = f"BADGE, N={rows:,} C={classes} d={width} k={budget}"
        points, probs = embeddings(rows, width), probabilities(rows, classes)
        pool = pool_of(device, points[:0], points, probs)
        both = np.concatenate([probs, points], axis=1)
        results.add(work, BOUND, products(to_device(both, device), budget))
        results.add(work, OURS, _query("badge", pool, budget))
        if rows == size(4000) and device == "cpu" and (peer := results.peer("skactiveml.pool")):
            _peer_badge(results, work, peer, points, probs, budget)
    large = f"BADGE, N={size(20_000):,} C={classes} d={width} k={budget}"
    results.require(large, BOUND, 2)
    results.require(work, "fastest peer", 20)
    inputs = size(20_000) * (width + classes) * 4 / 2**20
    peak = next(line.peak_mb for line in results.lines if (line.work, line.tool) == (large, OURS))
    results.targets.append(Target(f"peak memory / inputs, {large}", BOUND, 4, peak / inputs))


def _peer_badge(results: Results, work: str, peer: Any, points: np.ndarray, probs: np.ndarray, budget: int) -> None:
    from skactiveml.base import SkactivemlClassifier

    class Known(SkactivemlClassifier):
        """A classifier that knows its answers."""

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> np.ndarray:
            return probs

    def run(count: int) -> object:
        known = Known(classes=list(range(probs.shape[1])))
        y, strategy = np.full(len(points), np.nan), peer.Badge(random_state=0)
        return strategy.query(points, y, known, fit_clf=False, batch_size=count)

    _per_pick(results, work, run, 20, budget)


# ---------------------------------------------------------------------- clusters
def clusters(results: Results, size: Callable[[int], int], device: str, large: bool) -> None:
    """Strategies that cluster or cover."""
    rows, width, budget = size(100_000), 256, size(1000)
    points, probs = embeddings(rows, width), probabilities(rows, 10)
    pool = pool_of(device, points[:0], points, probs)
    for name in ("typiclust", "probcover", "cluster_margin", "kmeans"):
        results.add(f"{name}, N={rows:,} d={width} k={budget:,}", OURS, _query(name, pool, budget), repeats=1)
    _peer_typiclust(results, points, budget)
    for name in ("typiclust", "probcover", "cluster_margin"):
        work = f"{name}, N={rows:,} d={width} k={budget:,}"
        peak = next(line.peak_mb for line in results.lines if (line.work, line.tool) == (work, OURS))
        results.targets.append(Target(f"peak memory in GB, {work}", BOUND, 2, peak / 1024))
    results.require(f"typiclust, N={rows:,} d={width} k={budget:,}", "fastest peer", 3)

    few, picks = size(4000), size(100)
    small = pool_of(device, points[:0], points[:few], probs[:few])
    for name, peer_name in (("probcover", "ProbCover"), ("max_herding", "MaxHerding")):
        work = f"{name}, N={few:,} d={width} k={picks}"
        results.add(work, OURS, _query(name, small, picks))
        if peer := results.peer("skactiveml.pool"):
            unit = points[:few] / np.linalg.norm(points[:few], axis=1, keepdims=True)
            strategy = getattr(peer, peer_name)(random_state=0)
            results.add(
                work,
                "scikit-activeml",
                lambda strategy=strategy, unit=unit: strategy.query(unit, np.full(few, np.nan), batch_size=picks),
                repeats=1,
            )
        results.require(work, "fastest peer", 3)


def _peer_typiclust(results: Results, points: np.ndarray, budget: int) -> None:
    if peer := results.peer("skactiveml.pool"):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        strategy = peer.TypiClust(random_state=0)
        results.add(
            f"typiclust, N={len(points):,} d={points.shape[1]} k={budget:,}",
            "scikit-activeml",
            lambda: strategy.query(unit, np.full(len(unit), np.nan), batch_size=budget),
            repeats=1,
        )


# ---------------------------------------------------------------------- store to batch
def store_to_batch(results: Results, size: Callable[[int], int], large: bool, kept: Path | None) -> None:
    """From millions of logged predictions to 500 images by BADGE.

    The bound is a scan of the score's column and what BADGE would read if it read everything for every pick.
    """
    import polars as pl

    from al_core.selection import Rules, select_batch
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.candidates import Candidates
    from al_resources.prediction_store.delta import DeltaPredictionStore

    rows, limit, budget = size(100_000_000 if large else 10_000_000), size(50_000), size(500)
    width, classes = (64, 10) if large else (512, 100)
    work = f"store to batch, {rows:,} rows, d={width} C={classes}, prefilter {limit:,}, BADGE {budget}"
    with contextlib.nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
        store = DeltaPredictionStore(Path(folder) / "log", DeltaLedgers(Path(folder) / "ledgers"))
        if not store.watermark().rows:
            _write_log(store, rows, width, classes)
        store.compact()  # as `prediction_log` does before every selection
        strategy, source = get_strategy("badge"), Candidates(store, "digits", 1)
        scan = results.add(
            work,
            "part: bare top-k",
            lambda: pl.scan_delta(str(store.path)).select("margin").bottom_k(limit, by="margin").collect(),
        )
        table = source.eligible(Order("margin"), limit, ["probs", "embedding"])
        pool = pool_of("cpu", np.empty((0, width), np.float32), _lists(table, "embedding"), _lists(table, "probs"))
        results.add(work, "part: BADGE", lambda: strategy.query(pool, budget, 0))
        results.add(
            work,
            "part: who is eligible",
            lambda: source.eligible(Order("margin"), limit, ["probs", "embedding", "image_uri", "image_hash"]),
        )
        passes = results.add(
            work,
            "part: k passes",
            products(np.concatenate([pool.probs, pool.embeddings], axis=1), budget - round(0.1 * budget)),
            repeats=1,
        )
        results.lines.append(Line(work, BOUND, scan + passes, 0))
        results.add(
            work,
            OURS,
            lambda: select_batch(
                source,
                strategy=strategy,
                budget=budget,
                rules=Rules(control_share=0.1, near_duplicate_distance=4, pool_limit=limit),
                seed=0,
                round_=1,
                model_version=1,
            ),
        )
    results.require(work, BOUND, 1.5)


def _lists(table: Any, name: str) -> np.ndarray:
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def _write_log(store: Any, rows: int, width: int, classes: int) -> None:
    from al_core.records import prediction_table

    rng, chunk = np.random.default_rng(0), min(rows, 100_000)
    points = embeddings(chunk, width)  # of every chunk, moved: billions of draws would take longer than all else
    for start in range(0, rows, chunk):
        count = min(chunk, rows - start)
        digits = rng.bytes(16 * count).hex()
        ids = [digits[32 * n : 32 * n + 32] for n in range(count)]
        table = prediction_table(
            image_ids=ids,
            image_uris=[f"images/{one[:2]}/{one}.png" for one in ids],
            image_hashes=ids,
            model_name="digits",
            model_version=1,
            classes=tuple(f"class {n}" for n in range(classes)),
            probs=probabilities(count, classes, start),
            embeddings=points[:count] + rng.standard_normal(width, np.float32) / 4,
            source="batch",
            logged_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=start / 1000),
        )
        store.append(table)


# ---------------------------------------------------------------------- growth
def growth(results: Results, size: Callable[[int], int], device: str) -> None:
    """Time against N and against k, for the strategies that need embeddings."""
    names = ("k_center_greedy", "badge", "typiclust", "cluster_margin", "kmeans", "max_herding", "probcover")
    largest, width = size(64_000), 128
    points, probs = embeddings(largest, width), probabilities(largest, 10)
    for name in names:
        curves = {"N": [], "seconds over N": [], "k": [], "seconds over k": []}
        for rows in (largest // 16, largest // 8, largest // 4, largest // 2, largest):
            pool = pool_of(device, points[:10], points[:rows], probs[:rows])
            curves["N"].append(rows)
            curves["seconds over N"].append(measure(_query(name, pool, 100), 2)[0])
        pool = pool_of(device, points[:10], points[: largest // 4], probs[: largest // 4])
        for budget in (25, 50, 100, 200, 400, 800):
            curves["k"].append(budget)
            curves["seconds over k"].append(measure(_query(name, pool, budget), 2)[0])
        results.growth[name] = {one: [float(value) for value in values] for one, values in curves.items()}
        slopes = [f"{by}^{slope(curves[by], curves[f'seconds over {by}']):.2f}" for by in ("N", "k")]
        print(f"  {name:<18} {'  '.join(slopes)}", flush=True)


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Of the line through the points on log-log paper."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def plot(results: Results, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, by, fixed in ((axes[0], "N", "k = 100"), (axes[1], "k", "N fixed")):
        for name, curves in results.growth.items():
            steep = slope(curves[by], curves[f"seconds over {by}"])
            axis.loglog(curves[by], curves[f"seconds over {by}"], marker="o", label=f"{name} ({steep:.2f})")
        axis.set(xlabel=f"{by} ({fixed})", ylabel="seconds" if by == "N" else "")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


# ---------------------------------------------------------------------- output
def show(results: Results, *, quick: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    table = Table(title="Query strategies: time and peak memory")
    for column in ("work", "tool", "seconds", "x bound", "x ours", "peak MB"):
        table.add_column(column, justify="left" if column in ("work", "tool") else "right")
    before = ""
    for line in results.lines:
        bound, ours = results.time_of(line.work, BOUND), results.time_of(line.work, OURS)
        table.add_row(
            "" if line.work == before else line.work,
            line.tool,
            f"{'~' if line.scaled else ''}{line.seconds:.3f}",
            f"{line.seconds / bound:.2f}" if bound else "",
            f"{line.seconds / ours:.2f}" if ours else "",
            f"{line.peak_mb:.0f}",
        )
        before = line.work
    console.print(table)
    for target in [] if quick else results.targets:
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[target.met]
        found = "" if target.reached is None else f"{target.reached:.2f} "
        limit = (
            f"<= {target.limit} x bound" if target.of == BOUND else f">= {target.limit} x faster than the fastest peer"
        )
        console.print(f"{verdict:<13} {target.work}: {found}(to reach: {limit})", highlight=False)
    for reason in dict.fromkeys(results.left_out):
        console.print(f"left out: {reason}")


PARTS = ("scores", "k_center", "badge", "clusters", "store", "growth")


def run(
    parts: list[str], *, quick: bool = False, large: bool = False, device: str = "cpu", log: Path | None = None
) -> Results:
    """All measurements asked for."""
    results = Results()

    def size(full: int) -> int:
        return max(8, full // 8) if quick else full

    steps: dict[str, Callable[[], None]] = {
        "scores": lambda: scores(results, size, large),
        "k_center": lambda: k_center(results, size, device),
        "badge": lambda: badge(results, size, device),
        "clusters": lambda: clusters(results, size, device, large),
        "store": lambda: store_to_batch(results, size, large, log),
        "growth": lambda: growth(results, size, device),
    }
    for part in parts:
        print(part, flush=True)
        steps[part]()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="everything at an eighth of its size; targets are for the whole"
    )
    parser.add_argument("--large", action="store_true", help="also what takes hours and much memory")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--plot", type=Path, help="draw the growth with N and k into this file")
    parser.add_argument("--log", type=Path, help="keep the log of `store` in this folder, and use it again")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="skactiveml|sklearn")
    results = run(
        arguments.only, quick=arguments.quick, large=arguments.large, device=arguments.device, log=arguments.log
    )
    show(results, quick=arguments.quick)
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        facts = asdict(results) | {"machine": machine, "device": arguments.device, "quick": arguments.quick}
        arguments.json.write_text(json.dumps(facts, indent=1))
    if arguments.plot and results.growth:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
