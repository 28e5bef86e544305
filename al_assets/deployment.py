"""`deployment`: who serves after this round, and why. A better challenger takes the traffic, step by step."""

import dagster as dg

from al_assets import columns, views
from al_assets.failures import told_once
from al_assets.loop_names import loop_asset
from al_assets.rounds import round_of_run
from al_core.shown_text import plain_in_markdown
from al_loop import decisions
from al_loop.deploying import challenger_of_round, decide, deploy, end_killed_rollout
from al_resources.platform import Platform


@loop_asset(
    after="model_checkpoint",
    kinds={"python"},
    columns=columns.schema(columns.DEPLOYMENTS),
    pool="training_deployment",
    code_version="2",
)
def deployment(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """Who serves after this round, since when, why, and how to go back.

    **Did the challenger take the traffic?** The verdict (better, worse, open) is taken here from stored answers and all
    labels so far. A challenger that is worse, or not proven better yet, is a result: who serves stays, the run
    succeeds, and the check `challenger_serves` says why. Labels paid and what they bought are figures over the rounds.

    A rollout goes green up, smoke-tested, traffic in steps, watched; back to the champion at the first trouble. People
    decide by the jobs `hold`, `release`, `rollback` and `promote`, or by the commands of these names.
    """
    from al_loop.batch_facts import how_to_go_back

    round_ = round_of_run(context)
    with told_once():
        newest = challenger_of_round(platform, round_)
        decision = decide(platform, newest)
    context.log.info(decision.reason)
    steps: tuple[str, ...] = ()
    if decision.deploy is not None:
        result = deploy(platform, decision.deploy, run_id=context.run_id, log=context.log.info)
        if result.outcome == "rolled_back":
            raise dg.Failure(f"v{decision.deploy.version} was rolled back: {result.reason}", allow_retries=False)
        steps = result.steps
    else:
        end_killed_rollout(platform, run_id=context.run_id, log=context.log.info)
    decisions.of_the_loop(platform, decision, newest, run_id=context.run_id)
    state = platform.endpoint.state()
    serving = "nobody" if state.serving_version is None else f"v{state.serving_version}"
    told = [f"1. {plain_in_markdown(step)}" for step in steps]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(f"{newest.name}-{serving}"),
        metadata={
            "who serves": serving,
            "why": decision.reason,
            **how_to_go_back(platform),
            **views.what_labels_bought(platform),
            "outcome": decision.outcome,
            "served before": views.optional_int(decision.serving),
            "held": decisions.held(platform) or "no",
            "verdicts": dg.MetadataValue.json({f"v{v}": one.reason for v, one in decision.verdicts.items()}),
            "traffic": dg.MetadataValue.json(state.traffic),
            "deployments": dg.MetadataValue.json(state.deployments),
            "rollout": dg.MetadataValue.md("\n".join(told) or "nothing to do"),
        },
    )
