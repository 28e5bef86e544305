"""`model_checkpoint`: the champion trained further on all labels, judged on the holdout, published with its verdict."""

import dagster as dg

from al_assets import columns, views
from al_assets.loop_names import loop_asset
from al_assets.rounds import round_of_run
from al_loop.advice import stopping_advice
from al_loop.judging import evaluation_of
from al_loop.training import train_challenger
from al_resources.platform import Platform


@loop_asset(
    after="labeled_dataset",
    kinds={"torch", "safetensors"},
    columns=columns.schema(columns.EVALUATION),
    pool="training_deployment",
    code_version="1",
)
def model_checkpoint(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """The challenger: trained further from the newest version that is not proven worse, judged on what never taught.

    **How good is it, how sure is that, and what does it get wrong?** Accuracy has its interval; the learning curve
    shows all versions over the labels they cost; the confusion matrix, the calibration and the surest mistakes show
    where it errs. `against parent` compares on the same images; `against random` says how many labels of each reason
    contradicted the version that asked: a strategy earns its labels where these are more than in the control slice.
    The columns are those of its answers to the holdout.

    The same labels, parent, settings and code are the same training: its version is found, not made again.
    """
    from al_loop.batch_facts import against_parent, corrections

    round_ = round_of_run(context)
    dataset = platform.datasets.of_round(round_)
    manifest = train_challenger(platform, dataset, run_id=context.run_id, log=context.log.info)
    evaluation = evaluation_of(platform, manifest)
    advice = stopping_advice(platform)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.weights_sha256[:16]),
        metadata={
            **views.accuracy_figures(manifest),
            "gate": manifest.gate.reason if manifest.gate else "not judged",
            "learning curve": views.learning_curve(platform, round_),
            "against parent": against_parent(platform, manifest.parent_version, evaluation),
            "against random": views.table_or_words(
                corrections(platform, dataset), "no label of an image that a version had answered"
            ),
            **views.mistakes(platform, round_, evaluation),
            **views.worst_images(platform, round_, evaluation, dataset),
            "training labels": manifest.labels,
            "next round": advice.sentence,
            "worth another round": not advice.stop,
            "model version": manifest.version,
            "parent version": views.optional_int(manifest.parent_version),
            "dataset version": manifest.dataset_version,
            "training": dg.MetadataValue.json(manifest.training_log),
            "stored at": views.place(platform, f"models/{manifest.name}/{manifest.version}"),
        },
    )
