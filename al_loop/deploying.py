"""Deploying: the newest challenger that is better takes the traffic, step by step; otherwise who serves stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from al_core.errors import ActiveLearningError, GiveUp
from al_loop.judging import evaluation_of

if TYPE_CHECKING:
    from al_core.records import GateVerdict, ModelManifest
    from al_resources.endpoint.rollout import RolloutResult
    from al_resources.platform import Platform


def challenger_of_round(platform: Platform, round_: int) -> ModelManifest:
    """The newest model version that was trained for this round."""
    versions = platform.registry.versions()
    newest_first = (platform.registry.manifest(version) for version in reversed(versions))
    found = next((manifest for manifest in newest_first if manifest.round == round_), None)
    if found is None:
        raise GiveUp(f"round {round_} has no model version; materialize model_checkpoint first")
    return found


@dataclass(frozen=True)
class Decision:
    """Who is to serve, and why; taken from stored answers and all labels so far."""

    deploy: ModelManifest | None  # None: who serves goes on
    serving: int | None
    reason: str
    outcome: str  # promote | keep | held | serves already
    verdicts: dict[int, GateVerdict]  # of every challenger that was looked at


def decide(platform: Platform, newest: ModelManifest) -> Decision:
    """Who is to serve, of the version of a round and those before it, whose duels may have been decided only now.

    The newest that is better takes the traffic, unless somebody holds the endpoint. Open and worse are results, too.

    Raises:
        GiveUp: no verdict can be taken, and why.
    """
    from al_core.judging.contest import who_takes_over
    from al_loop.decisions import challengers, held, taken_back
    from al_loop.judging import verdict_on

    serving = platform.endpoint.state().serving_version
    if serving == newest.version:
        return Decision(None, serving, f"v{serving} serves already", "serves already", {})
    candidates = challengers(platform, serving, newest)
    verdicts = {manifest.version: verdict_on(platform, manifest, serving) for manifest in candidates}
    winner = who_takes_over(list(verdicts), verdicts.__getitem__)
    if winner is None:
        return Decision(None, serving, _why_nobody(newest, serving, verdicts, taken_back(platform)), "keep", verdicts)
    better, reason = platform.registry.manifest(winner), f"v{winner} is {verdicts[winner].reason}"
    if hold := held(platform):
        return Decision(None, serving, f"{hold}; {reason}", "held", verdicts)
    return Decision(better, serving, reason, "promote", verdicts)


def _why_nobody(
    newest: ModelManifest, serving: int | None, verdicts: dict[int, GateVerdict], taken_back: set[int]
) -> str:
    stays = "no version serves yet" if serving is None else f"v{serving} stays"
    if newest.version in verdicts:
        return f"{stays}: v{newest.version} is {verdicts[newest.version].reason}"
    if newest.version in taken_back:
        return f"{stays}: somebody went back from v{newest.version}, it does not return by itself (`al promote`)"
    return f"{stays}: v{newest.version} is older"


def deploy(
    platform: Platform, manifest: ModelManifest, *, run_id: str | None, log: Callable[[str], None]
) -> RolloutResult:
    """Roll the version out and write down what came of it; one that serves already is left alone."""
    from al_core.records import DEPLOYMENTS, new_ids, table_of, utc_now
    from al_resources.endpoint.rollout import roll_out

    settings = platform.settings.deployment
    record_missing_promotion(platform, run_id=run_id, log=log)
    result = roll_out(
        platform.endpoint,
        manifest.version,
        smoke_images=_smoke_images(platform, manifest, settings.smoke_images),
        steps=settings.traffic_steps,
        watch_seconds=platform.profile.watch_seconds if settings.watch_seconds is None else settings.watch_seconds,
        log=log,
    )
    if result.outcome == "already_serving":
        record_missing_promotion(platform, run_id=run_id, log=log)
    else:
        row = {
            "deployment_id": new_ids(1)[0],
            "endpoint": settings.endpoint,
            "model_name": manifest.name,
            "model_version": manifest.version,
            "previous_version": result.previous_version,
            "outcome": result.outcome,
            "reason": result.reason,
            "round": manifest.round,
            "run_id": run_id,
            "deployed_at": utc_now(),
        }
        platform.ledgers.insert_new("deployments", table_of(DEPLOYMENTS, [row]), on=["deployment_id"])
    return result


def end_killed_rollout(platform: Platform, *, run_id: str | None, log: Callable[[str], None]) -> None:
    """Where nobody is to be deployed: a rollout that was killed must not share the traffic for ever."""
    from al_resources.endpoint import rollout

    rollout.end_killed_rollout(platform.endpoint, log)
    record_missing_promotion(platform, run_id=run_id, log=log)


def record_missing_promotion(platform: Platform, *, run_id: str | None, log: Callable[[str], None]) -> bool:
    """Write the row that a rollout killed after its last step did not write; returns whether one was missing.

    The endpoint is the truth: the version that has all of the traffic was promoted, by whomever.
    """
    from al_core.records import DEPLOYMENTS, table_of, utc_now

    promoted = platform.ledgers.read("deployments").filter(
        endpoint=platform.settings.deployment.endpoint, outcome="promoted"
    )
    last = promoted["model_version"][-1] if promoted.height else None
    state = platform.endpoint.state()
    serving = state.serving_version
    if serving is None or serving == last or state.traffic.get(state.champion or "") != 100:
        return False
    log(f"v{serving} serves, and the ledger did not know: a rollout was killed before it wrote that down")
    row = {
        # named by what it follows, so that two processes that find it missing write it once
        "deployment_id": hashlib.blake2b(f"{state.revision}/{promoted.height}/{serving}".encode()).hexdigest()[:32],
        "endpoint": platform.settings.deployment.endpoint,
        "model_name": platform.settings.model.name,
        "model_version": serving,
        "previous_version": last,
        "outcome": "promoted",
        "reason": f"version {serving} serves; written afterwards, for the rollout ended before it was",
        "round": _round_of(platform, serving),
        "run_id": run_id,
        "deployed_at": utc_now(),
    }
    return bool(platform.ledgers.insert_new("deployments", table_of(DEPLOYMENTS, [row]), on=["deployment_id"]))


def _round_of(platform: Platform, version: int) -> int | None:
    try:
        return platform.registry.manifest(version).round
    except (KeyError, ActiveLearningError):  # gone from the registry, or cannot be read: it serves all the same
        return None


def _smoke_images(platform: Platform, manifest: ModelManifest, count: int) -> list[tuple[bytes, str | None]]:
    """Holdout images with the labels this very version gave them: another answer would mean another model."""
    evaluation = evaluation_of(platform, manifest)
    predicted = {} if evaluation is None else dict(evaluation.answers.select("image_id", "predicted").iter_rows())
    holdout = platform.datasets.of_version(manifest.dataset_version).images("holdout")
    judged = [image for image in holdout if image.image_id in predicted][:count]
    return [(platform.images.read(image.uri), predicted[image.image_id]) for image in judged]
