"""`model_checkpoint`: the champion trained further on all labels, judged on the holdout, published with its verdict."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from al_assets import views
from al_assets.advice import stopping_advice
from al_assets.labeled_dataset import labeled_dataset
from al_assets.rounds import ROUNDS
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.evaluation import Evaluation
    from al_core.inference import Predictor
    from al_core.records import ModelManifest

CHALLENGER_EVALUATION = "evaluation.parquet"
CHAMPION_EVALUATION = "champion_evaluation.parquet"


@dg.asset(
    deps=[labeled_dataset],
    partitions_def=ROUNDS,
    group_name="active_learning",
    kinds={"torch", "safetensors"},
    owners=["team:active-learning"],
    pool="training_deployment",
    code_version="1",
)
def model_checkpoint(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """The challenger: warm-started from the champion, compared with it on images neither was trained on.

    The same labels, parent, settings and code are the same training: its version is found, not made again.
    """
    dataset = platform.datasets.of_round(int(context.partition_key))
    manifest = train_challenger(platform, dataset, run_id=context.run_id, log=context.log.info)
    evaluation = evaluation_of(platform, manifest, CHALLENGER_EVALUATION)
    advice = stopping_advice(platform)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.weights_sha256[:16]),
        metadata={
            "model version": manifest.version,
            "parent version": views.optional_int(manifest.parent_version),
            "dataset version": manifest.dataset_version,
            "training labels": manifest.labels,
            **{f"holdout {name}": interval.value for name, interval in manifest.metrics.items()},
            **{f"holdout {name} interval": str(interval) for name, interval in manifest.metrics.items()},
            "gate": manifest.gate.reason if manifest.gate else "not judged",
            "next round": advice.sentence,
            "worth another round": not advice.stop,
            "learning curve": views.learning_curve(platform),
            "confusion matrix": views.confusion_matrix(evaluation),
            "training": dg.MetadataValue.json(manifest.training_log),
            "stored at": dg.MetadataValue.url(platform.blobs.url(f"models/{manifest.name}/{manifest.version}")),
        },
    )


def train_challenger(
    platform: Platform, dataset: "Dataset", *, run_id: str | None, log: Callable[[str], None]
) -> "ModelManifest":
    """Train, judge and publish; a training that was done before is returned as it was."""
    from al_core.checkpoint import code_version, training_key

    champion = platform.endpoint.state().serving_version
    settings = platform.settings.training
    key = training_key(dataset.manifest.version, champion, settings, code_version())
    if done := platform.registry.by_training_key(key):
        log(f"this training was done before: v{done.version}")
        return done
    with tempfile.TemporaryDirectory(prefix="al-train-") as folder:
        return _train_and_publish(platform, dataset, champion, key, Path(folder), run_id, log)


def _train_and_publish(
    platform: Platform,
    dataset: "Dataset",
    champion: int | None,
    key: str,
    folder: Path,
    run_id: str | None,
    log: Callable[[str], None],
) -> "ModelManifest":
    from al_core.checkpoint import code_version, sha256_of
    from al_core.gate import decide
    from al_core.inference import Predictor
    from al_core.records import ModelManifest, utc_now
    from al_core.training import TrainingRequest

    settings = platform.settings
    parent = platform.registry.fetch(champion) if champion is not None else None
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
        parent_version=champion,
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
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    challenger = judge(platform, Predictor.load(folder), dataset)
    incumbent = judge(platform, Predictor.load(parent), dataset) if parent is not None else None
    verdict = decide(
        challenger,
        incumbent,
        champion_version=champion,
        tolerance=settings.gate.tolerance,
        confidence=settings.gate.confidence,
        holdout=dataset.manifest.holdout,
    )
    log(verdict.reason)
    files = {CHALLENGER_EVALUATION: challenger.to_bytes()}
    if incumbent is not None:
        files[CHAMPION_EVALUATION] = incumbent.to_bytes()
    judged = manifest.model_copy(update={"metrics": challenger.metrics(), "gate": verdict})
    return platform.registry.register(result.weights, judged, files)


def judge(platform: Platform, predictor: "Predictor", dataset: "Dataset") -> "Evaluation":
    """The model's answers on the holdout, in bounded memory."""
    from al_core.evaluation import evaluate

    return evaluate(predictor, dataset.images("holdout"), platform.images.read)


def evaluation_of(platform: Platform, manifest: "ModelManifest", file: str) -> "Evaluation | None":
    """A stored evaluation of that version, or None where there is none (the first model has no champion)."""
    from al_core.evaluation import Evaluation

    try:
        return Evaluation.from_bytes(platform.registry.file(manifest.version, file))
    except FileNotFoundError:
        return None
