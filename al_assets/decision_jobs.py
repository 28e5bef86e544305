"""Jobs for people's decisions on who serves: the same as `al hold`, `al release`, `al rollback`, `al promote`."""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from al_assets.failures import told_once
from al_assets.loop_names import THE_LOOP, LoopNames, loop_job
from al_loop import decisions, operating
from al_resources.platform import Platform


class WhyConfig(dg.Config):
    """Who decides, and why."""

    reason: str = Field(description="why; stays on record")
    person: str = Field("", description="who; empty: the account that runs the job")

    @property
    def who(self) -> str:
        """The name that goes on record."""
        return self.person or decisions.this_person()


class RollbackConfig(WhyConfig):
    """Which version is to serve again."""

    to: int = Field(0, ge=0, description="version that served before; 0: the one before the last promotion")


class PromoteConfig(WhyConfig):
    """Which version is to serve."""

    version: int = Field(ge=1, description="any version of the registry")


def hold_deployments(
    context: dg.OpExecutionContext, config: WhyConfig, platform: dg.ResourceParam[Platform], loop: LoopNames
) -> None:
    """From now on the loop deploys nothing."""
    with told_once():
        said = operating.hold(platform, reason=config.reason, person=config.who, run_id=context.run_id)
    _tell(context, platform, loop, said, config)


def release_deployments(
    context: dg.OpExecutionContext, config: WhyConfig, platform: dg.ResourceParam[Platform], loop: LoopNames
) -> None:
    """The loop may deploy again."""
    with told_once():
        said = operating.release(platform, reason=config.reason, person=config.who, run_id=context.run_id)
    _tell(context, platform, loop, said, config)


def roll_back(
    context: dg.OpExecutionContext, config: RollbackConfig, platform: dg.ResourceParam[Platform], loop: LoopNames
) -> None:
    """Let a version serve that served before."""
    with told_once():
        result = operating.rollback(
            platform,
            config.to or None,
            reason=config.reason,
            person=config.who,
            log=context.log.info,
            run_id=context.run_id,
        )
    _tell(context, platform, loop, f"rolled back to v{result.model_version}", config)


def promote_version(
    context: dg.OpExecutionContext, config: PromoteConfig, platform: dg.ResourceParam[Platform], loop: LoopNames
) -> None:
    """Let a version serve whatever its verdict."""
    with told_once():
        result = operating.promote(
            platform,
            config.version,
            reason=config.reason,
            person=config.who,
            log=context.log.info,
            run_id=context.run_id,
        )
    _tell(context, platform, loop, f"promoted v{result.model_version}", config)


def _tell(context: dg.OpExecutionContext, platform: Platform, loop: LoopNames, said: str, config: WhyConfig) -> None:
    """The decision as an event of `deployment`, where people look for who serves."""
    context.log.info(said)
    newest = platform.ledgers.read("selections")["round"].max()
    partition = None if newest is None else f"{int(newest):04d}"  # type: ignore[arg-type]
    serving = platform.endpoint.state().serving_version
    facts = {"decision": said, "why": config.reason, "person": config.who, "who serves": f"v{serving}"}
    context.log_event(
        dg.AssetMaterialization(loop.key("deployment"), partition=partition, metadata=facts, description=said)
    )


JOBS: list[tuple[str, Callable[..., None], str]] = [
    ("hold", hold_deployments, "Deploy nothing until `release`; the loop selects and trains on."),
    ("release", release_deployments, "Let the loop deploy again."),
    ("rollback", roll_back, "Go back to a version that served before."),
    ("promote", promote_version, "Let a version serve, whatever the gate says."),
]
MOVES_TRAFFIC = ("rollback", "promote")  # never while a rollout moves it, too


def decision_jobs(loop: LoopNames = THE_LOOP) -> list[dg.JobDefinition]:
    """The jobs of that loop."""
    return [
        loop_job(
            loop,
            name,
            step,
            description=description,
            pool="training_deployment" if name in MOVES_TRAFFIC else "",
            tag="decision",
        )
        for name, step, description in JOBS
    ]
