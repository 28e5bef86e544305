"""Training: the newest model that is not proven worse trained further on all labels, judged, published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from al_resources.scratch import scratch_folder

if TYPE_CHECKING:
    import numpy as np

    from al_core.dataset import Dataset
    from al_core.records import ModelManifest
    from al_resources.platform import Platform

LOOKED_BACK = 100  # newest versions that may be of the same training
LOOKED_AT = 2  # times as many images as are wanted: some have no embedding yet


def train_challenger(
    platform: Platform, dataset: Dataset, *, run_id: str | None, log: Callable[[str], None]
) -> ModelManifest:
    """Train, judge, publish and tell the labeling tool; a training that was done before is returned as it was."""
    from al_core.learning.checkpoint import code_version, training_key
    from al_loop.prelabeling import refresh_predictions

    if done := _done_before(platform, dataset):
        log(f"this training was done before: v{done.version}")
        return done
    champion = platform.endpoint.state().serving_version
    before = None if champion is None else _goes_on_from(platform, champion)
    key = training_key(dataset.manifest.version, before, platform.settings.training, code_version())
    with scratch_folder(platform.settings.home / "scratch", "train-") as folder:
        manifest = _train_and_publish(platform, dataset, before, champion, key, folder, run_id, log)
    refresh_predictions(platform, log)
    return manifest


def _done_before(platform: Platform, dataset: Dataset) -> ModelManifest | None:
    """The newest version that these settings and this code made of these labels, whatever it went on from.

    Who serves may have changed since, and so may the verdict on its parent: a step that is run again finds its model.
    It is among the newest, and were it not, the same training would find its key in the registry.
    """
    from al_core.learning.checkpoint import code_version, training_key

    for version in reversed(platform.registry.versions()[-LOOKED_BACK:]):
        made = platform.registry.manifest(version)
        settings, parent = platform.settings.training, made.parent_version
        if made.training_key == training_key(dataset.manifest.version, parent, settings, code_version()):
            return platform.registry.by_training_key(made.training_key)
    return None


def _goes_on_from(platform: Platform, champion: int) -> int:
    """The version that is trained further: the newest that is not proven worse than who serves.

    What a model has learned is not lost while its verdict is open.
    """
    from al_loop.decisions import challengers
    from al_loop.judging import newest_not_worse

    return newest_not_worse(platform, champion, challengers(platform, champion))


def _train_and_publish(
    platform: Platform,
    dataset: Dataset,
    before: int | None,
    champion: int | None,
    key: str,
    folder: Path,
    run_id: str | None,
    log: Callable[[str], None],
) -> ModelManifest:
    from al_core.learning.checkpoint import code_version, sha256_of
    from al_core.learning.contract import TrainingRequest
    from al_core.records import ModelManifest, utc_now

    settings = platform.settings
    parent = platform.registry.fetch(before) if before is not None else None
    result = platform.trainer.fit(
        TrainingRequest(
            train=dataset.images("train"),
            validation=dataset.images("validation"),
            classes=dataset.manifest.classes,
            settings=settings.training,
            read_image=platform.images.read,
            output=folder,
            parent=parent if settings.training.warm_start else None,
            key=key,
            dataset=dataset.manifest,
            unlabeled=lambda encoder, most: unlabeled_embeddings(platform, champion, encoder, most),
            known=platform.embeddings,
        ),
        log,
    )
    manifest = ModelManifest(
        name=settings.model.name,
        version=0,  # the registry gives the number
        architecture=result.architecture,
        classes=result.classes,
        preprocessing=result.preprocessing,
        temperature=result.temperature,
        parent_version=before,
        dataset_version=dataset.manifest.version,
        round=dataset.manifest.round,
        training_key=key,
        training_settings=settings.training.model_dump(mode="json"),
        training_log=result.log,
        code_version=code_version(),
        labels=len(dataset.images("train")) + len(dataset.images("validation")),
        run_id=run_id,
        created_at=utc_now(),
        weights_sha256=sha256_of(result.weights),
        encoder=result.encoder,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return _judge_and_publish(platform, dataset, manifest, champion, folder, result.weights, log)


def unlabeled_embeddings(platform: Platform, version: int | None, encoder: str, most: int) -> np.ndarray:
    """Embeddings (M, d) that this encoder made of images that teach and have no label, at most so many.

    They are those that the table of embeddings has, else those that `version` logged, where its encoder is that one.
    """
    import numpy as np

    from al_core.strategies.base import Order
    from al_loop.answering import predictor_of

    known = _known_of_the_pool(platform, encoder, most)
    if len(known) >= most or version is None or (predictor := predictor_of(platform, version)).encoder_hash != encoder:
        return known
    name, teaching = platform.settings.model.name, platform.settings.holdout.teaching
    found = platform.predictions.eligible(name, version, Order("random", seed=0), most, ["embedding"], part=teaching)
    rows = [row for row in found["embedding"].to_pylist() if row is not None and len(row) == predictor.dimension]
    return np.array(rows, np.float32) if len(rows) > len(known) else known


def _known_of_the_pool(platform: Platform, encoder: str, most: int) -> np.ndarray:
    """Embeddings of at most so many images of the store that teach and that nobody was asked about: the first ones.

    Ids are hashes, so these are a random sample, and the same one round after round.
    """
    from itertools import islice

    from al_core.answers import answered

    asked = {*platform.ledgers.read("selections")["image_id"], *answered(platform.ledgers.read("labels"))}
    judges = platform.settings.holdout.judges
    waiting = (one for one in platform.images.ids() if one not in asked and not judges.holds(one))
    return platform.embeddings.read(encoder, list(islice(waiting, LOOKED_AT * most))).embeddings[:most]


def _judge_and_publish(
    platform: Platform,
    dataset: Dataset,
    manifest: ModelManifest,
    champion: int | None,
    folder: Path,
    weights: Path,
    log: Callable[[str], None],
) -> ModelManifest:
    """The first look at a challenger: what the labels so far say; its answers are stored beside it."""
    from al_core.judging.gate import Costs, first_model
    from al_core.learning.inference import Predictor
    from al_loop.answering import latency_ms, predictor_of
    from al_loop.judging import EVALUATION_FILE, PAIRING_FILE, evaluated, judge_pair, pair, to_bytes, truth_of

    predictor = Predictor.load(folder)
    evaluation = evaluated(platform, predictor, dataset)
    files = {EVALUATION_FILE: evaluation.to_bytes()}
    costs = Costs(latency_ms(predictor), weights.stat().st_size / 1e6)
    if champion is None:
        right, images = int(evaluation.correct.sum()), evaluation.answers.height
        verdict = first_model(right, images, platform.settings.gate.rules, truth_of(dataset), costs)
    else:
        pairing = pair(platform, predictor, predictor_of(platform, champion), dataset)
        files[PAIRING_FILE] = to_bytes(pairing)
        verdict = judge_pair(platform, pairing, dataset, champion=champion, costs=costs)
    log(verdict.reason)
    measured = {"latency_ms": costs.latency_ms, "size_mb": costs.size_mb}
    encoder = predictor.encoder_hash if platform.settings.training.frozen else None
    judged = manifest.model_copy(
        update={"metrics": evaluation.metrics(), "gate": verdict, "encoder_hash": encoder, **measured}
    )
    return platform.registry.register(weights, judged, files)
