"""`model_checkpoint`: the champion trained further on all labels, judged on the holdout, published with its verdict."""

import dagster as dg

from al_assets import views
from al_assets.loop_names import loop_asset
from al_assets.rounds import round_of_run
from al_loop.advice import stopping_advice
from al_loop.judging import evaluation_of
from al_loop.training import train_challenger
from al_resources.platform import Platform


@loop_asset(
    after="labeled_dataset",
    kinds={"torch", "safetensors"},
    pool="training_deployment",
    code_version="1",
)
def model_checkpoint(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """The challenger: warm-started from the champion, compared with it on images neither was trained on.

    The same labels, parent, settings and code are the same training: its version is found, not made again.
    """
    dataset = platform.datasets.of_round(round_of_run(context))
    manifest = train_challenger(platform, dataset, run_id=context.run_id, log=context.log.info)
    evaluation = evaluation_of(platform, manifest)
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
            "stored at": views.place(platform, f"models/{manifest.name}/{manifest.version}"),
        },
    )
