"""What the demo knows and a real project does not: every image's label, and so how good each model really is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from al_core.records import Interval
from al_resources.platform import Platform


def true_accuracies(platform: Platform) -> dict[int, Interval]:
    """Accuracy of every version on all reserved images, by the oracle's labels, with its 95 % interval.

    No version was taught with one of them, and a hash of their content chose them: they are a fair sample. Some decided
    a duel, so that who serves is known a little better than it would be on images that nobody has seen.
    """
    from al_core.judging.evaluation import wilson
    from al_core.learning.contract import LabeledImage
    from al_loop.answering import answers_of, predictor_of

    truth: dict[str, str] = json.loads(Path(platform.settings.labeling.oracle_labels).read_text())
    reserved = platform.settings.holdout.judges.among(sorted(truth))
    images = [LabeledImage(one, platform.images.path_of(one), truth[one]) for one in reserved]
    found = {}
    for version in platform.registry.versions():
        predictor = predictor_of(platform, version)
        ids, probs, _ = answers_of(platform, predictor, images)
        answers = [predictor.classes[place] for place in probs.argmax(axis=1)]
        found[version] = wilson(sum(truth[one] == answer for one, answer in zip(ids, answers, strict=True)), len(ids))
    return found


def what_labels_bought(rounds: list[dict[str, Any]], accuracies: Mapping[int, Interval]) -> list[dict[str, Any]]:
    """Round by round: labels paid so far, the new model, who serves, and how good both really are."""
    rows, paid = [], 0
    for row in rounds:
        paid += sum(row["paid"].values())
        both = {"model_version": row["model_version"], "serves": row["serves"]}
        true = {
            name: None if version is None else accuracies[version].model_dump()
            for name, version in zip(("model_accuracy", "deployed_accuracy"), both.values(), strict=True)
        }
        rows.append({"round": row["round"], "paid": paid, **both, **true})
    return rows


def bought_table(rows: list[dict[str, Any]]) -> Table:
    """As the demo shows it."""
    table = Table(
        caption="true accuracy, for every label is known here: on all reserved images,\nof which none has taught",
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    for column in ("round", "labels paid", "new model", "accuracy", "serves", "accuracy of who serves"):
        table.add_column(column, justify="left" if "accuracy" in column else "right", no_wrap=True)
    for row in rows:
        new, serves = row["model_accuracy"], row["deployed_accuracy"]
        table.add_row(
            str(row["round"]),
            str(row["paid"]),
            "" if new is None else f"v{row['model_version']}",
            "" if new is None else f"{new['value']:.3f}",
            "" if serves is None else f"v{row['serves']}",
            "" if serves is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**serves),
        )
    return table
