"""The report of a study: one self-contained HTML file, a picture, and Markdown for a pull request."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from al_core.contact_sheet import SheetItem, contact_sheet
from al_core.embedding_map import STYLE as MAP_STYLE
from al_core.embedding_map import MapPoints, drawn, projected
from al_core.images import decode_stored_image
from al_core.shown_text import harmless
from simulation.datasets import LabeledData, load_data
from simulation.experiment import ROUNDS_FILE, read_rounds
from simulation.presets import WHOLE_POOL
from simulation.runner import load_study
from simulation.statistics import (
    BASELINE,
    Curves,
    against_baseline,
    area_differences,
    area_under,
    conclusion,
    curves_of,
    holm,
    label_savings,
    mean_interval,
    sign_flip_p,
    win_matrix,
)
from simulation.study import Run, Start, Study

METRICS = {
    "accuracy": "accuracy on the test set",
    "macro_f1": "macro F1 on the test set",
    "nll": "negative log-likelihood (nats)",
    "ece": "calibration error",
    "brier": "Brier score",
    "temperature": "fitted temperature",
    "train_seconds": "seconds of training per round",
}
TIMED = ["score_seconds", "select_seconds", "train_seconds", "evaluate_seconds"]
SHEET_ROUNDS = (1, 2, 3)
SHEET_IMAGES = 20
MOST_MAPS, MAP_SAMPLE, MAP_ASKED = 4, 2_000, 1_000  # strategies; images of the pool; first picks of each strategy
COLOURS = (
    "#8d99ae",
    "#c1444b",
    "#3a6ea5",
    "#3d8b5f",
    "#b5792b",
    "#7b4fa3",
    "#2aa0a4",
    "#d0679d",
    "#5c6b2f",
    "#20232f",
)
_TEMPLATE = Path(__file__).with_name("report_template.html")


def write_report(folder: Path, table: pl.DataFrame, *, pictures: bool = True) -> dict[str, Any]:
    """Write `report.html`, `report.md` and `curves.png` into the study's folder; returns the summary as JSON.

    Raises:
        ValueError: no seed is finished for all strategies yet.
    """
    study = load_study(folder)
    starts: list[str] = [start for start in study.starts if start in table["start"].unique().to_list()]
    curves = {start: curves_of(table, start=start) for start in starts}
    summary = {start: _summary(found, table.filter(start=start)) for start, found in curves.items()}
    blocks = [_conclusions(curves), _protocol(study, table)]
    for start, found in curves.items():
        name = f" ({start} start)" if len(curves) > 1 else ""
        if study.deploy is not None:
            blocks.append(_deployed_table(table, start, name))
        blocks += [_savings_table(found, name), _rounds_table(found, name)]
        blocks += [_leads_table(found, name)] if BASELINE in found.strategies and len(found.strategies) > 1 else []
        blocks += [_wins_table(found, name)]
    if len(curves) > 1:
        blocks.append(_starts_table(curves))
    blocks.append(_recall_table(folder, curves, starts[0]))
    (folder / "report.md").write_text("\n\n".join(block.markdown() for block in blocks) + "\n")
    sheets = _contact_sheets(folder, study, study.starts[0]) if pictures else []
    maps = _maps(folder, study, study.starts[0]) if pictures else []
    (folder / "report.html").write_text(_page(study, blocks, sheets, maps, _chart_data(folder, table, starts)))
    draw_curves(curves[starts[0]], folder / "curves.png", study.data.partition(":")[0])
    deployed = {start: _deployed(table, start) for start in starts} if study.deploy is not None else {}
    return {
        "conclusions": {start: conclusion(found) for start, found in curves.items()},
        "strategies": summary,
        **({"deployed": deployed} if deployed else {}),
    }


class Block:
    """A heading with paragraphs and at most one table, as Markdown and as HTML."""

    def __init__(
        self,
        title: str,
        paragraphs: Sequence[str] = (),
        head: Sequence[str] = (),
        rows: Sequence[Sequence[str]] = (),
    ) -> None:
        self.title, self.paragraphs, self.head, self.rows = title, list(paragraphs), list(head), list(rows)

    def markdown(self) -> str:
        """GitHub's flavour."""
        lines = [f"## {self.title}", ""]
        for paragraph in self.paragraphs:
            lines += [paragraph, ""]
        if self.rows:
            lines += [_row(self.head), _row(["---"] + ["---:"] * (len(self.head) - 1))]
            lines += [_row(row) for row in self.rows]
        return "\n".join(lines).rstrip()

    def html(self) -> str:
        """Everything escaped: class names come from folder names."""
        parts = [f"<h2>{_escaped(self.title)}</h2>"]
        parts += [f"<p>{_escaped(paragraph)}</p>" for paragraph in self.paragraphs]
        if self.rows:
            parts.append("<div class=scroll><table><thead><tr>")
            parts += [f"<th>{_escaped(cell)}</th>" for cell in self.head]
            parts.append("</tr></thead><tbody>")
            for row in self.rows:
                parts.append("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>")
            parts.append("</tbody></table></div>")
        return "".join(parts)


def draw_curves(curves: Curves, file: Path, title: str) -> None:
    """Mean accuracy over labels with the bootstrap interval over seeds, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), dpi=130)
    axes = figure.add_subplot()
    for number, name in enumerate(curves.strategies):
        mean, low, high = mean_interval(curves.of(name))
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(curves.labels, mean, color=colour, lw=1.8, label=name)
        axes.fill_between(curves.labels, low, high, color=colour, alpha=0.13, lw=0)
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy on the test set")
    axes.set_title(f"{title}: mean of {curves.values.shape[1]} paired seeds, 95 % bootstrap", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


# ---------------------------------------------------------------------- what it says
def _conclusions(curves: dict[str, Curves]) -> Block:
    sentences = [
        f"{start} start: {conclusion(found)}" if len(curves) > 1 else conclusion(found)
        for start, found in curves.items()
    ]
    return Block("What the study shows", sentences)


def _protocol(study: Study, table: pl.DataFrame) -> Block:
    training = study.training
    encoder = "frozen encoder, " if training.frozen else ""
    back = "return" if study.return_unselected else "do not return"
    people = study.oracle
    scored = (
        "the whole pool, scored each round"
        if study.score_sample >= WHOLE_POOL
        else f"{study.score_sample} scored images"
    )
    covering = training.frozen and study.seed_pool > 0
    first = (
        "first labels, at random for random sampling and covering for all others" if covering else "random first labels"
    )
    facts = [
        ("data", f"{study.data} (version {', '.join(table['data_version'].unique().sort())})"),
        (
            "protocol",
            f"{study.initial} {first}, {study.rounds} rounds of {study.budget} labels out of "
            f"{scored}; unselected images {back}",
        ),
        ("test set", f"{study.test_images} images outside the pool"),
        ("validation", f"{study.validation_share:.0%} of the labels"),
        (
            "model",
            f"{encoder}{training.architecture}, {_pixels(training.image_size)}, "
            f"{training.epochs} epochs from the start, {training.epochs_from(warm=True)} going on",
        ),
        ("control slice", f"{study.control_share:.0%} of each batch"),
        (
            "people",
            f"{people.annotators} annotator(s), {people.noise:.0%} wrong, {people.abstention:.0%} unsure",
        ),
        ("code", ", ".join(table["code_version"].unique().sort())),
        ("settings", study.key),
    ]
    if study.imbalance > 1:
        facts.insert(1, ("imbalance", f"the rarest class of the pool is {study.imbalance:g} times rarer"))
    if study.pretrain is not None:
        facts.insert(-2, ("pretraining", f"SimCLR on the pool, {study.pretrain.epochs} epochs"))
    return Block("How it was done", [], ["", ""], facts)


def _savings_table(curves: Curves, name: str) -> Block:
    final = {c.strategy: c for c in against_baseline(curves, lambda curve: curve[:, -1])}
    area = {c.strategy: c for c in against_baseline(curves, lambda curve: area_under(curve, curves.labels))}
    rows = []
    for strategy in curves.strategies:
        mean, low, high = (float(end[-1]) for end in mean_interval(curves.of(strategy)))
        row = [strategy, f"{mean:.3f} [{low:.3f}, {high:.3f}]"]
        if strategy in final:
            row += [
                _points(final[strategy].difference),
                f"{final[strategy].p_corrected:.2g}",
                _points(area[strategy].difference),
                f"{area[strategy].p_corrected:.2g}",
                str(label_savings(curves, strategy)),
            ]
        else:
            row += ["", "", "", "", "1x" if strategy == BASELINE else ""]
        rows.append(row)
    note = (
        "Intervals: 95 %, bootstrap over paired seeds. p: two-sided sign-flip test, Holm-corrected over the "
        "strategies. Label savings: random's labels over the labels needed for random's final accuracy."
    )
    head = [
        "strategy",
        "final accuracy",
        "over random at the end",
        "p",
        "over random, whole curve",
        "p",
        "label savings",
    ]
    return Block(f"Strategies{name}", [note] if BASELINE in curves.strategies else [], head, rows)


def _deployed(table: pl.DataFrame, start: str) -> dict[str, dict[str, Any]]:
    """Per strategy: how good the deployed model is at the end, what was paid, and what the labels until then save."""
    curves = curves_of(table, "deployed_accuracy", start=start)
    last = table.filter(start=start, round=len(curves.labels) - 1)
    found = {}
    for strategy in curves.strategies:
        mean, low, high = mean_interval(curves.of(strategy)[:, -1])
        rows = last.filter(strategy=strategy)
        found[strategy] = {
            "deployed accuracy": [float(mean), float(low), float(high)],
            "labels paid": int(curves.labels[-1]),
            "of these duels": float(rows["duels"].mean() or 0),  # type: ignore[arg-type]
            "of these judge": float(rows["judges"].mean() or 0),  # type: ignore[arg-type]
        }
        if strategy != BASELINE and BASELINE in curves.strategies:
            found[strategy]["savings"] = str(label_savings(curves, strategy))
    return found


def _deployed_table(table: pl.DataFrame, start: str, name: str) -> Block:
    rows = []
    for strategy, one in _deployed(table, start).items():
        mean, low, high = one["deployed accuracy"]
        rows.append(
            [
                strategy,
                f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                str(one["labels paid"]),
                f"{one['of these judge']:.0f}",
                f"{one['of these duels']:.0f}",
                one.get("savings", ""),
            ]
        )
    text = (
        "Accuracy of the model that serves after the last round, on the test set; every label that people gave is "
        "paid, those that judge too, and random sampling has the same brakes. Savings: labels until random's final "
        "deployed accuracy."
    )
    head = ["strategy", "deployed accuracy, %", "labels paid", "judge", "duels", "savings"]
    return Block(f"What a label buys{name}", [text], head, rows)


def _shown_rounds(curves: Curves) -> list[int]:
    """About seven of them, the first and the last included."""
    last = curves.values.shape[2] - 1
    return sorted(
        {0, *range(1, last, max(1, last // 6)), last} if last < 6 else {*range(0, last, max(1, last // 6)), last}
    )


def _rounds_table(curves: Curves, name: str) -> Block:
    rows = []
    for number in _shown_rounds(curves):
        row = [str(number), str(int(curves.labels[number]))]
        for strategy in curves.strategies:
            mean, low, high = (float(end[number]) for end in mean_interval(curves.of(strategy)))
            row.append(f"{mean:.3f} ±{(high - low) / 2:.3f}")
        rows.append(row)
    return Block(f"Accuracy by round{name}", [], ["round", "labels", *curves.strategies], rows)


def _leads_table(curves: Curves, name: str) -> Block:
    """How far ahead of random each strategy is, and how sure, while the labels grow."""
    rows = []
    for number in _shown_rounds(curves)[1:]:  # round 0 is the same for all
        leads = against_baseline(curves, lambda curve, number=number: curve[:, number])  # type: ignore[misc]
        cells = [f"{_points(lead.difference)}, p = {lead.p_corrected:.2g}" for lead in leads]
        rows.append([str(number), str(int(curves.labels[number])), *cells])
    head = ["round", "labels", *(strategy for strategy in curves.strategies if strategy != BASELINE)]
    note = "Points of accuracy, as above; p is corrected over the strategies, not over the rounds."
    return Block(f"Over random by round{name}", [note], head, rows)


def _wins_table(curves: Curves, name: str) -> Block:
    wins = win_matrix(curves)
    rows = [
        [strategy, *(f"{share:.0%}" if column != row else "" for column, share in enumerate(wins[row]))]
        for row, strategy in enumerate(curves.strategies)
    ]
    note = "Share of rounds in which the row beats the column (paired t-test over seeds, two-sided, 5 %)."
    return Block(f"Who beats whom{name}", [note], ["", *curves.strategies], rows)


def _starts_table(curves: dict[str, Curves]) -> Block:
    """Warm against cold: paired by strategy and seed."""
    first, *others = curves
    found = {
        (start, strategy): area_differences(curves[start], curves[first], strategy)
        for start in others
        for strategy in curves[first].strategies
        if strategy in curves[start].strategies and set(curves[first].seeds) & set(curves[start].seeds)
    }
    corrected = holm(np.array([sign_flip_p(pairs) for pairs in found.values()]))
    rows = []
    for ((start, strategy), pairs), p in zip(found.items(), corrected, strict=True):
        mean, low, high = (float(end) for end in mean_interval(pairs))
        difference = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        rows.append([strategy, f"{start} - {first}", difference, f"{p:.2g}"])
    note = "Points of accuracy over the whole curve, paired by seed; p is corrected over the rows."
    return Block("How training starts", [note], ["strategy", "starts", "difference", "p"], rows)


def _recall_table(folder: Path, curves: dict[str, Curves], start: str) -> Block:
    recall = pl.read_parquet(folder / "recall.parquet").filter(start=start)
    last = recall.filter(pl.col("round") == pl.col("round").max())
    means = last.group_by("class", "strategy").agg(pl.col("recall").mean())
    rows = []
    for name in sorted(means["class"].unique()):
        of_class = dict(means.filter(pl.col("class") == name).select("strategy", "recall").iter_rows())
        rows.append([name, *(f"{of_class[s]:.3f}" if s in of_class else "" for s in curves[start].strategies)])
    return Block("Recall by class at the end", [], ["class", *curves[start].strategies], rows)


def _summary(curves: Curves, table: pl.DataFrame) -> dict[str, Any]:
    final = {c.strategy: c for c in against_baseline(curves, lambda curve: curve[:, -1])}
    area = {c.strategy: c for c in against_baseline(curves, lambda curve: area_under(curve, curves.labels))}
    described = {}
    for strategy in curves.strategies:
        mean, low, high = (float(end[-1]) for end in mean_interval(curves.of(strategy)))
        seconds = table.filter(strategy=strategy).select(pl.sum_horizontal(TIMED)).to_series().sum()
        facts: dict[str, Any] = {
            "final_accuracy": [mean, low, high],
            "seconds_per_run": seconds / curves.values.shape[1],
        }
        if strategy in final:
            savings = label_savings(curves, strategy)
            facts |= {
                "final_difference": final[strategy].difference.model_dump(),
                "final_p": final[strategy].p_corrected,
                "curve_difference": area[strategy].difference.model_dump(),
                "curve_p": area[strategy].p_corrected,
                "label_savings": _finite([savings.ratio, savings.low, savings.high]),
            }
        described[strategy] = facts
    return described


# ---------------------------------------------------------------------- the page
def _page(
    study: Study,
    blocks: Sequence[Block],
    sheets: Sequence[tuple[str, bytes]],
    maps: Sequence[str],
    data: dict[str, Any],
) -> str:
    first, *rest = blocks
    pictures = "".join(
        f"<figure><figcaption>{_escaped(title)}</figcaption>"
        f'<img alt="{_escaped(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for title, png in sheets
    )
    if pictures:
        pictures = f"<h2>What they asked for first</h2><div class=sheets>{pictures}</div>"
    heading = "<h2>Where they asked, on the map of the embeddings</h2>" if maps else ""
    page = _TEMPLATE.read_text()
    for mark, text in (
        ("title", _escaped(f"Active learning on {study.data.partition(':')[0]}")),
        ("conclusion", first.html()),
        ("tables", "".join(block.html() for block in rest)),
        ("sheets", pictures),
        ("maps", f"<style>{MAP_STYLE}</style>{heading}{''.join(maps)}" if maps else ""),
        # inside <script>: nothing in it may close the element
        ("data", json.dumps(data).replace("<", "\\u003c")),
    ):
        page = page.replace(f"<!--{mark}-->", text)
    return page


def _chart_data(folder: Path, table: pl.DataFrame, starts: Sequence[str]) -> dict[str, Any]:
    """What the page draws: per start and metric, each strategy's mean, interval and single seeds."""
    recall = pl.read_parquet(folder / "recall.parquet")
    columns = {title: (table, name) for name, title in METRICS.items()}
    for class_name in sorted(recall["class"].unique()):
        of_class = recall.filter(pl.col("class") == class_name).drop("class", "labels")
        joined = table.join(of_class, on=["strategy", "start", "seed", "round"], how="left")
        columns[f"recall of {class_name}"] = joined.with_columns(pl.col("recall").fill_null(0.0)), "recall"
    drawn = {
        start: {title: _series(curves_of(rows, name, start)) for title, (rows, name) in columns.items()}
        for start in starts
    }
    return {"colours": COLOURS, "metrics": list(columns), "starts": drawn}


def _series(curves: Curves) -> dict[str, Any]:
    lines = []
    for name in curves.strategies:
        mean, low, high = mean_interval(curves.of(name))
        lines.append(
            {"name": name, "mean": _short(mean), "low": _short(low), "high": _short(high),
             "seeds": [_short(seed) for seed in curves.of(name)]}
        )  # fmt: skip
    return {"labels": curves.labels.tolist(), "lines": lines}


def _contact_sheets(folder: Path, study: Study, start: Start) -> list[tuple[str, bytes]]:
    """The pictures each strategy asked for in the first rounds of seed 0, the most wanted first."""
    data = load_data(study.data)
    truth = {image.image_id: image for image in data.images}
    sheets = []
    for strategy in study.strategies:
        place = folder / "runs" / Run(strategy=strategy, start=start, seed=0).name
        for line in read_rounds(place / ROUNDS_FILE):
            if line["round"] in SHEET_ROUNDS:
                sheets.append((f"{strategy}, round {line['round']}", _sheet(line, truth, data)))
    return sheets


def _sheet(line: dict[str, Any], truth: dict[str, Any], data: LabeledData) -> bytes:
    chosen = list(zip(line["selected"], line["scores"], strict=True))[:SHEET_IMAGES]
    items = [
        SheetItem(
            decode_stored_image(data.read(truth[image_id].uri)),
            (truth[image_id].label, "" if score is None else f"{score:.3f}"),
        )
        for image_id, score in chosen
    ]
    return contact_sheet(items, columns=10, edge=64, max_bytes=60_000)


def _maps(folder: Path, study: Study, start: Start) -> list[str]:
    """Where on the frozen encoder's embeddings each strategy asked, of seed 0, and what its last model doubts.

    All maps show the same images: a random sample of the pool, and what any of the strategies asked for.
    """
    file, runs = folder / "images" / "embeddings.npy", [
        Run(strategy=strategy, start=start, seed=0) for strategy in study.strategies
    ][:MOST_MAPS]  # fmt: skip
    lines = {run.strategy: read_rounds(folder / "runs" / run.name / ROUNDS_FILE) for run in runs}
    runs = [run for run in runs if lines[run.strategy]]
    if not file.exists() or not runs:
        return []
    data = load_data(study.data)
    pool, _ = data.split(study.split_seed(runs[0]), study.test_images, study.imbalance)
    row, label = {image.image_id: n for n, image in enumerate(data.images)}, {one.image_id: one.label for one in pool}
    asked = {name: _asked_for(rounds) for name, rounds in lines.items()}
    order = np.random.default_rng(0).permutation(len(pool))[:MAP_SAMPLE]
    ids = sorted({pool[n].image_id for n in order}.union(*({*reasons} for reasons in asked.values())))
    embeddings = np.load(file, mmap_mode="r")[[row[image_id] for image_id in ids]]
    places, how = projected(embeddings)
    maps = []
    for number, run in enumerate(runs):
        reasons, rounds = asked[run.strategy], lines[run.strategy]
        doubts = _doubts_of(folder / "runs" / run.name / f"model-{len(rounds) - 1:03d}", embeddings)
        points = MapPoints(
            ids, embeddings, [label[image_id] for image_id in ids], doubts, [reasons.get(image_id) for image_id in ids]
        )
        caption = f"{run.strategy}: {len(reasons):,} images asked for, among {len(ids):,}; by {how}."
        maps.append(drawn(points, f"map{number}", caption, places))
    return maps


def _asked_for(rounds: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Image id -> why, of the images of a run, at most `MAP_ASKED` of the first ones."""
    pairs = [pair for line in rounds for pair in zip(line["selected"], line["reasons"], strict=True)]
    return dict(pairs[:MAP_ASKED])


def _doubts_of(checkpoint: Path, embeddings: np.ndarray) -> np.ndarray:
    """One minus the margin of the answers to each (N, d) embedding; NaN where the model is not kept any more."""
    from al_core.learning.checkpoint import BadCheckpoint
    from al_core.learning.inference import Predictor
    from al_core.uncertainty import uncertainty_scores

    try:
        predictor = Predictor.load(checkpoint, "cpu")
    except BadCheckpoint:
        return np.full(len(embeddings), np.nan)
    return 1 - uncertainty_scores(predictor.classify(np.ascontiguousarray(embeddings))).margin


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(harmless(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _points(interval: Any) -> str:
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _short(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _escaped(text: str) -> str:
    """For HTML; characters that turn the direction of writing are shown, too."""
    return html.escape(harmless(text))


def _finite(values: Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _pixels(size: int | None) -> str:
    return f"{size}x{size} pixels" if size else "pictures of the encoder's own size"
