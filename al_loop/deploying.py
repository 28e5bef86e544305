"""Deploying: the challenger takes the traffic, if the gate still lets it pass, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from al_core.errors import ActiveLearningError, GiveUp
from al_loop.training import CHALLENGER_EVALUATION, CHAMPION_EVALUATION, evaluation_of

if TYPE_CHECKING:
    from al_core.records import ModelManifest
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


def verify_gate(platform: Platform, manifest: ModelManifest) -> None:
    """Judge the stored answers again; what passed against an older champion does not pass now.

    Raises:
        GiveUp: the model must not be deployed, and why.
    """
    from al_core.judging.gate import verify

    serving = platform.endpoint.state().serving_version
    if serving == manifest.version:
        return  # it serves already: nothing is about to change
    if manifest.gate is None or manifest.gate.champion_version != serving:
        judged = "nobody" if manifest.gate is None else f"v{manifest.gate.champion_version}"
        raise GiveUp(
            f"v{manifest.version} was compared with {judged}, but v{serving} serves now; "
            "materialize model_checkpoint again"
        )
    verdict = verify(
        manifest.gate,
        evaluation_of(platform, manifest, CHALLENGER_EVALUATION),
        evaluation_of(platform, manifest, CHAMPION_EVALUATION),
        confidence=platform.settings.gate.confidence,
    )
    if not verdict.passed:
        raise GiveUp(f"v{manifest.version} is not deployed: {verdict.reason}")


def deploy(platform: Platform, manifest: ModelManifest, *, run_id: str, log: Callable[[str], None]) -> RolloutResult:
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
    evaluation = evaluation_of(platform, manifest, CHALLENGER_EVALUATION)
    predicted = {} if evaluation is None else dict(evaluation.answers.select("image_id", "predicted").iter_rows())
    holdout = platform.datasets.of_version(manifest.dataset_version).images("holdout")
    judged = [image for image in holdout if image.image_id in predicted][:count]
    return [(platform.images.read(image.uri), predicted[image.image_id]) for image in judged]
