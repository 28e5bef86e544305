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


def bars(names: Sequence[str], values: np.ndarray, title: str) -> bytes:
    """A plain histogram."""
    figure = Figure(figsize=(5, 2.2), dpi=100)
    axes = figure.add_subplot()
    axes.bar(range(len(names)), values, color=BLUE, width=0.9)
    axes.set_xticks(range(0, len(names), 2), names[::2], fontsize=7)
    axes.set_xlabel(title)
    axes.set_ylabel("images")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
