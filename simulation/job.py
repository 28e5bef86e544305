"""The `simulation` job: one run of a study from the Dagster UI, strategy and seed chosen in the launchpad."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from al_assets.loop_names import THE_LOOP, LoopNames, loop_job
from al_core.strategies.registry import StrategyName
from al_resources.platform import Platform
from simulation.presets import default_start, training_defaults
from simulation.study import Run, Study

if TYPE_CHECKING:
    import polars as pl

SHOWN = ("accuracy", "macro_f1", "nll", "ece")


class SimulationConfig(dg.Config):
    """One strategy under one seed; runs that differ in nothing else add up to one study and its report."""

    data: str = Field("digits", description="digits, cifar10:FOLDER-or-TAR, imagefolder:PATH, torchvision:NAME")
    strategy: StrategyName = Field(StrategyName("margin"), description="query strategy, see `al strategies`")
    seed: int = Field(0, ge=0, description="shared with the runs of other strategies under the same seed")
    initial: int = Field(20, ge=2, description="random labels of the first model")
    rounds: int = Field(30, ge=1, description="rounds after the first model")
    budget: int = Field(10, ge=1, description="labels per round")
    score_sample: int = Field(500, ge=1, description="images scored per round")
    imbalance: float = Field(1, ge=1, description="the rarest class of the pool has this many times fewer images")


def simulate(
    context: dg.OpExecutionContext, config: SimulationConfig, platform: dg.ResourceParam[Platform]
) -> dg.Output[str]:
    """Known labels in place of people; selection, training and evaluation are production's.

    The figures of the rounds stand in the step's output: a study is no asset, and adds none to the catalog.
    """
    from simulation.runner import run_study

    study = study_of(config)
    run = Run(strategy=config.strategy.value, start=study.starts[0], seed=config.seed)
    folder = platform.settings.home / "studies" / f"{study.data.partition(':')[0]}-{study.key}"

    def report(done: int, total: int) -> None:
        context.log.info(f"{run.name}: {done} of {total} rounds")

    table = run_study(study, folder, only=run, workers=1, progress=report, say=context.log.info)
    return dg.Output(str(folder), metadata={**_comparison(platform, folder, table), "rounds": _rounds(run, table)})


def study_of(config: SimulationConfig) -> Study:
    """The study that a run belongs to."""
    return Study(
        data=config.data,
        strategies=(config.strategy.value,),
        seeds=config.seed + 1,
        initial=config.initial,
        rounds=config.rounds,
        budget=config.budget,
        score_sample=config.score_sample,
        imbalance=config.imbalance,
        starts=(default_start(config.data),),
        training=training_defaults(config.data),
    )


def _rounds(run: Run, table: "pl.DataFrame") -> dg.MetadataValue:
    """What this run measured, round by round."""
    import polars as pl

    from al_assets import views

    measured = table.filter(**run.model_dump()).sort("round").select("round", "labels", pl.col(SHOWN).round(4))
    return views.table(measured)


def _comparison(platform: Platform, folder: Any, table: "pl.DataFrame") -> dict[str, Any]:
    """The curves and the sentence over all runs of the study so far, once every strategy has a seed in common."""
    from al_assets.views import picture, report
    from simulation.report import write_report

    try:
        summary = write_report(folder, table, pictures=False)
    except ValueError as error:
        return {"comparison": f"not yet: {error}", "study": dg.MetadataValue.path(str(folder))}
    return {
        "comparison": " ".join(summary["conclusions"].values()),
        "curves": picture(
            platform, f"studies/{folder.name}/curves", (folder / "curves.png").read_bytes(), "accuracy over labels"
        ),
        "report": report(platform, f"studies/{folder.name}/report", folder / "report.html"),
    }


def simulation_job(loop: LoopNames = THE_LOOP) -> dg.JobDefinition:
    """One run of a study."""
    return loop_job(
        loop,
        "simulation",
        simulate,
        description="What a strategy would save on known labels, before anybody labels.",
        tag="simulation",
    )
