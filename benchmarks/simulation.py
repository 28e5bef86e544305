"""A simulation's time and accuracy against the same protocol in modAL with skorch, and the frozen mode against both.

    python -m benchmarks.simulation [--data digits] [--rounds 30] [--seeds 3] [--json OUT]

The peer is written as modAL's own documentation does it: an `ActiveLearner` around skorch's classifier. It gets the
same network, augmentation, optimizer, learning rates, passes and batches, warm starts, decoded pixels, first labels,
and as many scored images a round. It neither calibrates nor keeps checkpoints, records and near-duplicates apart, and
trains on every label: the run to compare its accuracy with is the one without validation images.
All take turns, seed by seed, on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from al_core.learning.networks import build_network, preprocessing_for
from al_core.learning.preprocessing import normalise
from al_core.learning.settings import TrainingSettings
from al_core.learning.torch_trainer import MIN_STEPS, augment, warm_up_and_cosine
from simulation.datasets import LabeledData, load_data
from simulation.experiment import Experiment, Prepared, load_prepared, prepare
from simulation.presets import training_defaults
from simulation.pretraining import embed_all, pretrain_on_pool
from simulation.study import PretrainSettings, Study

STRATEGY = "margin"
CURVE = tuple[list[float], list[float]]  # per round: seconds, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="as in `al simulate --data`")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--initial", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", type=int, default=5, help="epochs of the encoder that the frozen mode keeps")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row per variant."""
    settings = training_defaults(arguments.data) | {"device": "cpu"}
    study = Study(
        data=arguments.data,
        strategies=(STRATEGY,),
        seeds=arguments.seeds,
        rounds=arguments.rounds,
        budget=arguments.budget,
        initial=arguments.initial,
        training=TrainingSettings(**settings),
    )
    data = load_data(study.data)
    preprocessing = preprocessing_for("small_cnn", size=study.training.image_size, channels=study.training.channels)
    prepare(data, preprocessing, folder / "images")
    prepared = load_prepared(data, folder / "images")
    all_labels = study.model_copy(update={"validation_share": 0.0})
    frozen, embedded = frozen_mode(study, data, folder, arguments.pretrain)
    variants: dict[str, Callable[[int], CURVE]] = {
        "al simulate": lambda seed: ours(study, prepared, folder / f"full-{seed}", seed),
        "al simulate --validation-share 0": lambda seed: ours(all_labels, prepared, folder / f"all-{seed}", seed),
        "modAL and skorch": lambda seed: peer(study, prepared, seed),
        "al simulate --frozen": lambda seed: ours(frozen, embedded, folder / f"frozen-{seed}", seed),
    }
    curves: dict[str, list[CURVE]] = {name: [] for name in variants}
    for seed in range(study.seeds):
        for name, play in variants.items():
            curves[name].append(play(seed))
            print(f"seed {seed}, {name}: {sum(curves[name][-1][0]):.1f} s", flush=True)
    return [row(name, runs, curves["al simulate"], study) for name, runs in curves.items()]


def frozen_mode(study: Study, data: LabeledData, folder: Path, epochs: int) -> tuple[Study, Prepared]:
    """The study with an encoder learned on its pool, and the images as that encoder sees them."""
    batch = min(256, len(data.images) // 4)
    frozen = study.model_copy(update={"pretrain": PretrainSettings(epochs=epochs, batch_size=batch)})
    preprocessing = preprocessing_for("small_cnn", size=study.training.image_size, channels=study.training.channels)
    encoder = pretrain_on_pool(frozen, data, preprocessing, folder, print)
    training = study.training.model_copy(update={"frozen": True, "weights": str(encoder)})
    images = folder / "frozen-images"
    images.mkdir()
    for file in (folder / "images").iterdir():
        (images / file.name).symlink_to(file)
    embed_all(training, preprocessing, images)
    return frozen.model_copy(update={"training": training}), load_prepared(data, images)


def ours(study: Study, prepared: Prepared, folder: Path, seed: int) -> CURVE:
    """A run of `al simulate`, timed round by round."""
    run = study.runs()[0].model_copy(update={"seed": seed})
    seconds, accuracy = [], []
    began = time.perf_counter()
    for line in Experiment(study, run, prepared, folder, study.training).resume():
        seconds.append(time.perf_counter() - began)
        accuracy.append(line["accuracy"])
        began = time.perf_counter()
    return seconds, accuracy


def peer(study: Study, prepared: Prepared, seed: int) -> CURVE:
    """The protocol in modAL."""
    from modAL.models import ActiveLearner, base, learners
    from modAL.uncertainty import margin_sampling

    for module in (base, learners):  # modAL 0.4.2.1 calls scikit-learn by an argument that was renamed since
        module.check_X_y = _check_x_y

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    pool, test = prepared.data.split(seed, study.test_images)
    position = {name: number for number, name in enumerate(prepared.data.classes)}
    (x, y), (x_test, y_test) = (_arrays(prepared, part, position, study) for part in (pool, test))
    waiting = generator.permutation(len(x))
    chosen, waiting = waiting[: study.initial], waiting[study.initial :]
    began = time.perf_counter()
    classifier = _classifier(study, len(position))
    _passes(classifier, study, len(chosen), warm=False)
    learner = ActiveLearner(
        estimator=classifier, query_strategy=margin_sampling, X_training=x[chosen], y_training=y[chosen]
    )
    seconds, accuracy = [], []
    for round_ in range(study.rounds + 1):
        if round_:
            sample = generator.permutation(waiting)[: study.score_sample]
            rows, _ = learner.query(x[sample], n_instances=study.budget)
            _passes(classifier, study, study.initial + round_ * study.budget, warm=True)
            learner.teach(x[sample[rows]], y[sample[rows]])
            waiting = np.setdiff1d(waiting, sample[rows])
        accuracy.append(float(learner.score(x_test, y_test)))
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds, accuracy


def _check_x_y(x: np.ndarray, y: np.ndarray, *, force_all_finite: bool, **options: Any) -> Any:
    from sklearn.utils import check_X_y

    return check_X_y(x, y, ensure_all_finite=force_all_finite, **options)


def _arrays(
    prepared: Prepared, images: Sequence[Any], position: dict[str, int], study: Study
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pixels (N, channels, size, size) float32 and class numbers (N,)."""
    pixels = torch.from_numpy(prepared.pixels[[prepared.row[image.image_id] for image in images]])
    preprocessing = preprocessing_for("small_cnn", size=study.training.image_size, channels=study.training.channels)
    return normalise(pixels, preprocessing).numpy(), np.array([position[image.label] for image in images])


def _classifier(study: Study, classes: int) -> Any:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, PassthroughScoring

    class Schedule(Callback):
        """Warm-up and cosine over the batches of this fit."""

        def on_train_begin(self, net: Any, X: Any = None, **_: Any) -> None:
            warm = hasattr(self, "scheduler")
            net._initialize_optimizer()
            rate = study.training.learning_rate_from(warm=warm)
            for group in net.optimizer_.param_groups:
                group["lr"] = rate
            steps = net.max_epochs * math.ceil(len(X) / net.batch_size)
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(net.optimizer_, warm_up_and_cosine(steps))

        def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **_: Any) -> None:
            if training:
                self.scheduler.step()

    class Augmented(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            size, channels = study.training.image_size, study.training.channels
            self.network = build_network("small_cnn", classes=classes, size=size, channels=channels)
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                images = augment(images, study.training.augment, self.generator, share=study.training.shift)
            return self.network(images)

    return NeuralNetClassifier(
        Augmented,
        criterion=torch.nn.CrossEntropyLoss,
        criterion__label_smoothing=study.training.label_smoothing,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=study.training.weight_decay,
        optimizer__fused=True,
        batch_size=study.training.batch_size,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=512,
        train_split=None,
        warm_start=True,
        verbose=0,
        callbacks=[Schedule()],
        callbacks__valid_acc=None,
        callbacks__train_loss=PassthroughScoring("train_loss", on_train=True),
    )


def _passes(classifier: Any, study: Study, labels: int, *, warm: bool) -> None:
    """As many steps as ours takes: an epoch has at least `MIN_STEPS` of them there."""
    steps = math.ceil(labels / study.training.batch_size)
    epochs = study.training.epochs_from(warm=warm)
    classifier.set_params(max_epochs=math.ceil(epochs * max(steps, MIN_STEPS) / steps))


def row(name: str, runs: list[CURVE], base: list[CURVE], study: Study) -> dict[str, Any]:
    """Seconds of a run, its ratio to ours, the growth of a round's time with the labels, and accuracies."""
    seconds = np.array([run[0] for run in runs])  # (seeds, rounds + 1)
    accuracy = np.array([run[1] for run in runs])
    labels = study.initial + study.budget * np.arange(1, study.rounds + 1)
    slope = np.polyfit(np.log(labels), np.log(np.median(seconds[:, 1:], axis=0)), 1)[0]
    return {
        "variant": name,
        "seconds": float(seconds.sum(axis=1).mean()),
        "ratio": float(seconds.sum() / sum(sum(run[0]) for run in base)),
        "last_round_seconds": float(np.median(seconds[:, -1])),
        "slope": float(slope),
        "accuracy": float(accuracy[:, -1].mean()),
        "accuracy_sd": float(accuracy[:, -1].std(ddof=1)) if len(runs) > 1 else 0.0,
        "curve": float(accuracy.mean()),
        "labels": int(labels[-1]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"| {STRATEGY}, {rows[0]['labels']} labels | s a run | to ours | last round, s | slope | accuracy | curve |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['variant']} | {r['seconds']:.1f} | {r['ratio']:.2f} | {r['last_round_seconds']:.2f} | {r['slope']:.2f} "
        f"| {r['accuracy']:.3f} ±{r['accuracy_sd']:.3f} | {r['curve']:.3f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
