"""What people decide about who serves: hold, release, rollback, promote. Each on record with who, why and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from al_core.errors import GiveUp, InvalidInput
from al_loop import decisions

if TYPE_CHECKING:
    from al_core.records import ModelManifest
    from al_resources.endpoint.rollout import RolloutResult
    from al_resources.platform import Platform


def hold(platform: Platform, *, reason: str, person: str, run_id: str | None = None) -> str:
    """From now on nothing is deployed by the loop; it selects and trains on. Returns a sentence.

    A rollout that is under way when somebody holds goes to its end.
    """
    _check_reason(reason)
    if standing := decisions.held(platform):
        return f"it is {standing}"
    serving = platform.endpoint.state().serving_version
    decisions.record(platform, "hold", reason=reason, person=person, version=serving, against=serving, run_id=run_id)
    return "held: the loop selects and trains, and deploys nothing until `al release`"


def release(platform: Platform, *, reason: str, person: str, run_id: str | None = None) -> str:
    """The loop may deploy again. Returns a sentence."""
    _check_reason(reason)
    if decisions.held(platform) is None:
        return "nobody holds it"
    serving = platform.endpoint.state().serving_version
    decisions.record(platform, "release", reason=reason, person=person, version=serving, against=serving, run_id=run_id)
    return "released: the next round deploys again"


def rollback(
    platform: Platform,
    to: int | None = None,
    *,
    reason: str,
    person: str,
    log: Callable[[str], None],
    run_id: str | None = None,
) -> RolloutResult:
    """Let a version serve that served before; without `to` the one before the last promotion.

    The version that is left does not come back by itself.

    Raises:
        GiveUp: nothing served before, or a rollout is under way.
        InvalidInput: that version never served, is not in the registry, or does not know today's classes.
    """
    _check_reason(reason)
    serving = _settled(platform)
    promoted = platform.ledgers.read("deployments", endpoint=platform.settings.deployment.endpoint, outcome="promoted")
    served = [version for version in promoted["model_version"].to_list() if version != serving]
    if not served:
        raise GiveUp(f"no version but v{serving} ever served; `al promote V --reason WHY` lets another one serve")
    if to is None:
        before = promoted.filter(model_version=serving)["previous_version"].drop_nulls()
        to = int(before[-1]) if len(before) else served[-1]
    elif to not in served:
        there_are = ", ".join(f"v{version}" for version in sorted(set(served)))
        raise InvalidInput(
            f"v{to} {'serves already' if to == serving else 'was never deployed'}; these served before: {there_are}. "
            "`al promote V --reason WHY` lets any version serve"
        )
    return _let_serve(platform, "rollback", to, serving, reason=reason, person=person, log=log, run_id=run_id)


def promote(
    platform: Platform,
    version: int,
    *,
    reason: str,
    person: str,
    log: Callable[[str], None],
    run_id: str | None = None,
) -> RolloutResult:
    """Let a version serve whatever its verdict; a hold does not stop a person.

    Raises:
        GiveUp: a rollout is under way.
        InvalidInput: that version is not in the registry, serves already, or does not know today's classes.
    """
    _check_reason(reason)
    serving = _settled(platform)
    if version == serving:
        raise InvalidInput(f"v{version} serves already")
    return _let_serve(platform, "promote", version, serving, reason=reason, person=person, log=log, run_id=run_id)


def _let_serve(
    platform: Platform,
    action: decisions.Action,
    version: int,
    serving: int | None,
    *,
    reason: str,
    person: str,
    log: Callable[[str], None],
    run_id: str | None,
) -> RolloutResult:
    from al_loop.deploying import deploy

    manifest = _known(platform, version)
    result = deploy(platform, manifest, run_id=run_id, log=log)
    if result.outcome == "rolled_back":
        raise GiveUp(f"v{version} did not come up and v{serving} goes on: {result.reason}")
    decisions.record(
        platform,
        action,
        reason=reason,
        person=person,
        version=version,
        against=serving,
        round_=_newest_round(platform),
        run_id=run_id,
    )
    return result


def _known(platform: Platform, version: int) -> ModelManifest:
    versions = platform.registry.versions()
    if version not in versions:
        there_are = ", ".join(f"v{one}" for one in versions) or "none yet"
        raise InvalidInput(f"v{version} is not in the registry; there are: {there_are}")
    manifest = platform.registry.manifest(version)
    dataset = platform.datasets.latest()
    unknown = [] if dataset is None else [one for one in dataset.manifest.classes if one not in manifest.classes]
    if unknown:
        raise InvalidInput(
            f"v{version} does not know {', '.join(unknown)}, which people label today, and would answer wrongly for "
            "each such image; choose a version that was trained since"
        )
    return manifest


def _settled(platform: Platform) -> int | None:
    state = platform.endpoint.state()
    sharing = {name: share for name, share in state.traffic.items() if share}
    if len(sharing) > 1:
        split = ", ".join(f"{name} {share} %" for name, share in sorted(sharing.items()))
        raise GiveUp(
            f"a rollout is under way ({split}); wait until it has ended. If who began it was killed, materialize "
            "`deployment`: it ends such a rollout"
        )
    return state.serving_version


def _newest_round(platform: Platform) -> int | None:
    newest = platform.ledgers.read("selections")["round"].max()
    return None if newest is None else int(newest)  # type: ignore[arg-type]


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInput("a decision needs a reason: say why in --reason")
