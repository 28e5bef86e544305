"""Charts as small PNG files. Matplotlib is imported here and only here; nothing but steps and the CLI draw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    from al_core.judging.evaluation import Evaluation
    from al_core.records import ModelManifest
    from al_loop.monitoring import AccuracyPoint, DriftLook

INK = "#2b2d42"
BLUE = "#3a6ea5"
RED = "#c1444b"


def learning_curve(manifests: Sequence[ModelManifest]) -> bytes:
    """Accuracy on the holdout with its interval, over the number of training labels."""
    figure = Figure(figsize=(6, 3.6), dpi=110)
    axes = figure.add_subplot()
    promoted = [m for m in manifests if m.gate is not None and m.gate.passed]
    axes.plot([m.labels for m in promoted], [m.metrics["accuracy"].value for m in promoted], color=BLUE, lw=1.5)
    for group, color, name in (
        (promoted, BLUE, "passed the gate"),
        ([m for m in manifests if m not in promoted], RED, "refused"),
    ):
        if group:
            accuracy = [m.metrics["accuracy"] for m in group]
            axes.errorbar(
                [m.labels for m in group],
                [a.value for a in accuracy],
                yerr=[[a.value - a.low for a in accuracy], [a.high - a.value for a in accuracy]],
                fmt="o",
                ms=4,
                color=color,
                capsize=2,
                lw=1,
                label=name,
            )
    axes.set_xlabel("labels used for training")
    axes.set_ylabel("accuracy on the holdout")
    axes.grid(alpha=0.25)
    if manifests:
        axes.legend(frameon=False)
    return _png(figure)


def confusion_matrix(evaluation: Evaluation) -> bytes:
    """Counts per true (down) and predicted (across) class; the diagonal is right."""
    classes, counts = evaluation.confusion_matrix()
    side = min(2.2 + 0.32 * len(classes), 9.0)
    figure = Figure(figsize=(side, side), dpi=100)
    axes = figure.add_subplot()
    axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 20:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    axes.text(
                        j,
                        i,
                        str(count),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if i == j else INK,
                    )
    return _png(figure)


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> bytes:
    """How often answers are right (dots, their size by how many there are) by how sure they were; calibrated: the line.

    Args:
        confidence: (N,), of the predicted class.
        right: (N,), bool.
        bins: Of equal width.
    """
    import numpy as np

    figure = Figure(figsize=(3.6, 3.4), dpi=110)
    axes = figure.add_subplot()
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    sure = np.bincount(place, confidence, minlength=bins)[there] / counts[there]
    share = np.bincount(place, right, minlength=bins)[there] / counts[there]
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls="--")
    axes.scatter(sure, share, s=20 + 180 * counts[there] / len(confidence), color=BLUE, alpha=0.8)
    for x, y, count in zip(sure, share, counts[there], strict=True):
        axes.annotate(str(count), (x, y), textcoords="offset points", xytext=(6, -9), fontsize=6, color=INK)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("right")
    axes.grid(alpha=0.25)
    return _png(figure)


def bars(names: Sequence[str], values: np.ndarray, title: str) -> bytes:
    """A plain histogram."""
    figure = Figure(figsize=(5, 2.2), dpi=100)
    axes = figure.add_subplot()
    axes.bar(range(len(names)), values, color=BLUE, width=0.9)
    axes.set_xticks(range(0, len(names), 2), names[::2], fontsize=7)
    axes.set_xlabel(title)
    axes.set_ylabel("images")
    return _png(figure)


def two_histograms(reference: Sequence[int], window: Sequence[int], title: str) -> bytes:
    """Shares by tenths of the reference (outline) and of the window (bars)."""
    figure = Figure(figsize=(5, 2.4), dpi=100)
    axes = figure.add_subplot()
    places = [(place + 0.5) / len(window) for place in range(len(window))]
    for counts, color, filled, name in ((window, BLUE, True, "now"), (reference, INK, False, "reference")):
        shares = [count / max(1, sum(counts)) for count in counts]
        axes.bar(places, shares, width=0.9 / len(counts), label=name, fill=filled, color=color, edgecolor=color)
    axes.set_xlabel(title)
    axes.set_ylabel("share of images")
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def evidence_of_drift(looks: Sequence[DriftLook]) -> bytes:
    """The p-value of every look beside the level at which it raises the alarm, both as powers of ten."""
    from math import log10

    import numpy as np

    figure = Figure(figsize=(6, 2.8), dpi=100)
    axes = figure.add_subplot()
    moments = np.array([look.looked_at.replace(tzinfo=None) for look in looks], "datetime64[s]")
    shown = [-log10(max(look.p_value, 1e-30)) for look in looks]
    axes.plot(moments, [-log10(look.level) for look in looks], color=RED, lw=1, ls="--", marker="_", label="alarm at")
    axes.plot(moments, shown, color=BLUE, lw=1, marker="o", ms=3, label="evidence")
    axes.set_ylabel("-log10 p")
    axes.tick_params(axis="x", labelsize=6, rotation=20)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def accuracy_over_time(points: Sequence[AccuracyPoint]) -> bytes:
    """Accuracy on the traffic with its confidence sequence over rounds, version by version; ATC beside it, dashed."""
    figure = Figure(figsize=(6, 3.2), dpi=110)
    axes = figure.add_subplot()
    for shade, version in enumerate(dict.fromkeys(point.version for point in points)):
        own = [point for point in points if point.version == version]
        rounds, color = [point.round for point in own], (BLUE, INK)[shade % 2]
        low, high = ([getattr(point.accuracy, end) for point in own] for end in ("low", "high"))
        axes.plot(rounds, [point.accuracy.value for point in own], color=color, marker="o", ms=4, label=f"v{version}")
        axes.vlines(rounds, low, high, color=color, alpha=0.5)
        guesses = [point.without_labels for point in own if point.without_labels is not None]
        if guesses:
            axes.plot(rounds, guesses, color=RED, ls="--", marker="x", ms=4, lw=1)
    axes.plot([], [], color=RED, ls="--", marker="x", label="guessed without labels")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on the traffic")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
