"""What monitoring promises: false alarms of drift a year, what is found and how soon, and intervals that hold.

`python -m benchmarks.monitoring [--years N] [--histories N] [--embeddings FILE.npz] [--json OUT]`

Simulated embeddings are a mixture of ten classes that a linear model keeps apart about as well as the digits; the real
ones are of small networks, each trained on 250 digits of nine classes, that never saw the tenth. As there are too few
digits, images are drawn from them again, each moved by a twentieth of the spread; of the unseen class none comes twice.
Each line has its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from al_core.judging.accuracy import looks
from al_core.judging.drift import LEAST_PROBABILITY, level, reduced, two_samples
from al_core.judging.evaluation import wilson

ALPHA, DAYS = 0.05, 365
REFERENCE, WINDOW = 4_000, 1_000
KNOWN = 9
RIDGE, SHARPNESS = 0.3, 8.0  # of a head on real embeddings
MEASURED_AT = 20, 50, 100, 200  # labels


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--only", choices=["accuracy", "found", "alarms"])
    parser.add_argument(
        "--embeddings",
        type=Path,
        help="an .npz of real `embeddings` (N, d) and `labels` (N,), of at least 5 400 images",
    )
    parser.add_argument("--histories", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {}
    for part, title, rows in (
        ("accuracy", "95 % sequences of accuracy, 200 labels, a look every ten", lambda: coverage(options.histories)),
        ("found", "10 % of an unseen class among 1 000 images", lambda: found(options.cases, options.embeddings)),
        ("alarms", f"years with a false alarm, daily looks at {ALPHA} a year", lambda: false_alarms(options.years)),
    ):
        if options.only not in (None, part):
            continue
        print(f"\n{title}", flush=True)
        result[title] = rows()
        for name, value in result[title].items():
            print(f"  {name:58} {value}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


# ---------------------------------------------------------------------- drift
def false_alarms(years: int, reference: int = 600, window: int = 200) -> dict[str, str]:
    """Each year one reference and a window of new images every day; smaller than the defaults, to be done today."""
    alarms, smallest = [], 1.0
    for year in range(years):
        generator = np.random.default_rng(year)
        stream = Stream(generator, dimension=8)
        before, keys = stream.images(reference), _keys(generator, reference)
        p_values = [_p_value(before, stream.images(window), (keys, _keys(generator, window))) for _ in range(DAYS)]
        smallest = min(smallest, *p_values)
        alarms.append(sum(p_value <= level(ALPHA, 1) for p_value in p_values))
    with_alarm = sum(count > 0 for count in alarms)
    return {
        f"of {years} years with {DAYS} looks": f"{with_alarm}, {wilson(with_alarm, years)}",
        "smallest p-value, level of a look": f"{smallest:.2g}, {level(ALPHA, 1):.2g}",
    }


def found(cases: int, file: Path | None = None) -> dict[str, str]:
    """Whether a single look at a window with 100 images of an unseen class raises the alarm of a year."""
    rows = {}
    for dimension in (64, 512):
        p_values = []
        for case in range(cases):
            generator = np.random.default_rng(case)
            stream = Stream(generator, dimension)
            before, now = stream.images(REFERENCE), stream.images(WINDOW, unseen=WINDOW // 10)
            p_values.append(_p_value(before, now, (_keys(generator, REFERENCE), _keys(generator, WINDOW))))
        rows[f"simulated, {dimension} dimensions"] = _share_found(p_values)
    rows["digits, 10 small networks, unseen class"] = _share_found(_on_digits(seeds=5))
    if file is not None:
        rows[f"{file.stem}, unseen class"] = _share_found(_on_embeddings(file, cases))
    return rows


def _share_found(p_values: list[float]) -> str:
    raised = sum(p_value <= level(ALPHA, 1) for p_value in p_values)
    return f"{wilson(raised, len(p_values))}   median p {np.median(p_values):.1g} of {len(p_values)} cases"


class Stream:
    """Features of images: embeddings around ten class centers, and the log probabilities of a model of nine."""

    def __init__(self, generator: np.random.Generator, dimension: int) -> None:
        self.generator, self.dimension = generator, dimension
        centers = generator.standard_normal((KNOWN + 1, dimension))
        self.centers = 5 * centers / np.linalg.norm(centers, axis=1, keepdims=True)

    def images(self, count: int, unseen: int = 0) -> list[np.ndarray]:
        """Log probabilities (N, 9) and embeddings (N, d), the last `unseen` of a class that the model does not know."""
        classes = np.r_[self.generator.integers(0, KNOWN, count - unseen), np.full(unseen, KNOWN)]
        embeddings = self.centers[classes] + self.generator.standard_normal((count, self.dimension))
        return [_log_softmax(embeddings @ self.centers[:KNOWN].T), embeddings]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """As a look sees them: none below a ten-thousandth."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.maximum(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.log(LEAST_PROBABILITY))


def _p_value(before: list[np.ndarray], now: list[np.ndarray], keys: tuple[np.ndarray, np.ndarray]) -> float:
    return two_samples(*reduced(before, now), keys).p_value


def _keys(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.integers(0, 1 << 60, count)


def _on_digits(seeds: int) -> list[float]:
    from al_cli.digits import digit_pngs

    pngs = digit_pngs()
    labels, p_values = np.array([int(label) for _, label in pngs]), []
    for unseen in range(10):
        generator = np.random.default_rng(unseen)
        known = generator.permutation(np.flatnonzero(labels != unseen))
        features = _answers_of_a_network(pngs, known[:250], unseen)
        spread, others = 0.05 * features[known].std(axis=0), known[250:]
        for _ in range(seeds):
            now = np.r_[
                generator.choice(others, WINDOW - WINDOW // 10),
                generator.permutation(np.flatnonzero(labels == unseen))[: WINDOW // 10],
            ]
            sides = [
                features[rows] + spread * generator.standard_normal((len(rows), features.shape[1]))
                for rows in (generator.choice(others, REFERENCE), now)
            ]
            keys = (_keys(generator, REFERENCE), _keys(generator, WINDOW))
            before, after = ([side[:, -KNOWN:], side[:, :-KNOWN]] for side in sides)
            p_values.append(_p_value(before, after, keys))
    return p_values


def _on_embeddings(file: Path, cases: int, taught: int = 500) -> list[float]:
    """Of a file of real embeddings; each class in turn is unseen, and a head has learnt from `taught` of the others."""
    arrays = np.load(file)
    embeddings, labels = arrays["embeddings"].astype(np.float32), arrays["labels"]
    classes, p_values = np.unique(labels), []
    for case in range(cases):
        generator, unseen = np.random.default_rng(case), classes[case % len(classes)]
        known = generator.permutation(np.flatnonzero(labels != unseen))
        learnt, first, now = np.split(known[: taught + REFERENCE + WINDOW - WINDOW // 10], [taught, taught + REFERENCE])
        now = np.r_[now, generator.permutation(np.flatnonzero(labels == unseen))[: WINDOW // 10]]
        head = _head(embeddings[learnt], labels[learnt])
        before, after = ([head(embeddings[rows]), embeddings[rows]] for rows in (first, now))
        p_values.append(_p_value(before, after, (_keys(generator, REFERENCE), _keys(generator, WINDOW))))
    return p_values


def _head(embeddings: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Log probabilities by ridge regression on embeddings, which is fitted in a moment."""
    middle, spread = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
    images = (embeddings - middle) / spread / np.sqrt(embeddings.shape[1])
    wanted = (labels[:, None] == np.unique(labels)).astype(np.float32)
    weights = np.linalg.solve(images @ images.T + RIDGE * np.eye(len(images)), wanted - wanted.mean(axis=0))
    slope = images.T @ weights / spread[:, None] / np.sqrt(embeddings.shape[1])
    return lambda new: _log_softmax(SHARPNESS * ((new - middle) @ slope + wanted.mean(axis=0)))


def _answers_of_a_network(pngs: list[tuple[bytes, str]], rows: np.ndarray, unseen: int) -> np.ndarray:
    """Embeddings and log probabilities (N, d + 9) of a network that learnt from these rows of nine classes."""
    from io import BytesIO

    from PIL import Image

    from al_core.learning.checkpoint import load_network, sha256_of
    from al_core.learning.contract import LabeledImage, TrainingRequest
    from al_core.learning.inference import Predictor
    from al_core.learning.networks import resolve_device
    from al_core.learning.settings import TrainingSettings
    from al_core.learning.torch_trainer import TorchTrainer
    from al_core.records import ModelManifest, utc_now

    images = [LabeledImage(f"{row:032x}", str(row), pngs[row][1]) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        result = TorchTrainer().fit(
            TrainingRequest(
                train=images[35:],
                validation=images[:35],
                classes=tuple(str(digit) for digit in range(10) if digit != unseen),
                settings=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=25),
                read_image=lambda uri: pngs[int(uri)][0],
                output=Path(folder),
                parent=None,
            ),
            lambda line: None,
        )
        manifest = ModelManifest(
            name="digits",
            version=1,
            architecture=result.architecture,
            classes=result.classes,
            preprocessing=result.preprocessing,
            temperature=result.temperature,
            dataset_version="digits",
            training_key="benchmark",
            code_version="benchmark",
            labels=len(images),
            created_at=utc_now(),
            weights_sha256=sha256_of(result.weights),
            encoder=result.encoder,
        )
        (Path(folder) / "manifest.json").write_text(manifest.model_dump_json())
        network = load_network(Path(folder), manifest)
        predictor = Predictor(network, manifest, resolve_device("cpu"))
        probs, embeddings = predictor.predict_with_embeddings([Image.open(BytesIO(png)) for png, _ in pngs])
    return np.c_[embeddings, np.log(np.maximum(probs, 1e-4))]


# ---------------------------------------------------------------------- accuracy
def coverage(histories: int, labels: int = 200, traffic: int = 2_000) -> dict[str, str]:
    """How often the truth lies in the interval at all looks together, and how wide the interval is.

    The model is as often right as it says, or less by .1; the traffic's own sample is taken as it is.
    """
    after, rows = range(10, labels + 1, 10), {}
    widths: dict[str, list[list[float]]] = {"with the logged confidences": [], "with labels alone": []}
    for name, shift in (("calibrated", 0.0), ("10 points too sure", 0.1)):
        truth, held = _accuracy(shift), 0
        for seed in range(histories):
            labeled, others = _history(seed, labels, traffic, shift)
            seen = looks(labeled, others, after)
            held += all(look.accuracy.low <= truth <= look.accuracy.high for look in seen)
            if shift == 0 and seed < 50:
                hidden = {"confidence": pl.lit(0.5), "predicted_label": pl.lit("a")}
                said = pl.when(_right(labeled)).then(pl.lit("a")).otherwise(pl.lit("b"))
                alone = looks(labeled.with_columns(label=said, **hidden), others.with_columns(**hidden), after)
                for kind, found_ in (("with the logged confidences", seen), ("with labels alone", alone)):
                    by_count = {look.labels: look.accuracy.high - look.accuracy.low for look in found_}
                    widths[kind].append([by_count[count] for count in MEASURED_AT])
        rows[f"{name}, accuracy {truth:.3f}: all looks hold"] = str(wilson(held, histories))
    for kind, values in widths.items():
        means = ", ".join(f"{width:.3f}" for width in np.mean(values, axis=0))
        rows[f"width after {', '.join(map(str, MEASURED_AT))} labels, {kind}"] = means
    return rows


def _right(rows: pl.DataFrame) -> pl.Series:
    return rows["predicted_label"] == rows["label"]


def _history(seed: int, labels: int, traffic: int, shift: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    generator = np.random.default_rng(seed)
    confidence = _confidences(generator, labels + traffic)
    right = generator.random(labels + traffic) < confidence - shift
    names = generator.choice([str(digit) for digit in range(10)], labels + traffic)
    rows = pl.DataFrame({"predicted_label": names, "confidence": confidence, "label": np.where(right, names, "other")})
    return rows.head(labels), rows.tail(traffic).drop("label")


def _confidences(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.clip(1 - generator.beta(0.3, 2.5, count), 0.2, 1)


def _accuracy(shift: float) -> float:
    return float(np.clip(_confidences(np.random.default_rng(0), 4_000_000) - shift, 0, 1).mean())


if __name__ == "__main__":
    main()
