"""`deployment`: the challenger takes the traffic, if the gate still lets it pass, step by step."""

import dagster as dg

from al_assets import views
from al_assets.failures import told_once
from al_assets.model_checkpoint import model_checkpoint
from al_assets.rounds import ROUNDS
from al_core.shown_text import plain_in_markdown
from al_loop.deploying import challenger_of_round, deploy, verify_gate
from al_resources.platform import Platform


@dg.asset(
    deps=[model_checkpoint],
    partitions_def=ROUNDS,
    group_name="active_learning",
    kinds={"python"},
    owners=["team:active-learning"],
    pool="training_deployment",
    code_version="1",
)
def deployment(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """Green up, smoke-tested, traffic in steps, watched; back to the champion at the first trouble.

    The gate is verified here again: Dagster's blocking checks hold inside one run only.
    """
    round_ = int(context.partition_key)
    with told_once():
        manifest = challenger_of_round(platform, round_)
        verify_gate(platform, manifest)
    result = deploy(platform, manifest, run_id=context.run_id, log=context.log.info)
    if result.outcome == "rolled_back":
        raise dg.Failure(f"v{manifest.version} was rolled back: {result.reason}", allow_retries=False)
    state = platform.endpoint.state()
    steps = [f"1. {plain_in_markdown(step)}" for step in result.steps]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(f"{manifest.name}-v{manifest.version}"),
        metadata={
            "model version": manifest.version,
            "previous version": views.optional_int(result.previous_version),
            "outcome": result.outcome,
            "gate": manifest.gate.reason if manifest.gate else "not judged",
            "traffic": dg.MetadataValue.json(state.traffic),
            "deployments": dg.MetadataValue.json(state.deployments),
            "rollout": dg.MetadataValue.md("\n".join(steps) or "nothing to do"),
        },
    )
