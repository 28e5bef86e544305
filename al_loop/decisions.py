"""Decisions on who serves: the loop's and people's, on record with who, why and when."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from al_core.records import GateVerdict, ModelManifest
    from al_loop.deploying import Decision
    from al_resources.platform import Platform

Action = Literal["promote", "keep", "hold", "release", "rollback"]
LOOP = "the loop"  # who decides where no person does


def record(
    platform: Platform,
    action: Action,
    *,
    reason: str,
    version: int | None = None,
    against: int | None = None,
    person: str = LOOP,
    round_: int | None = None,
    verdict: GateVerdict | None = None,
    run_id: str | None = None,
) -> None:
    """Write a decision down. The loop's own is written once, however often its step is run; a person's every time."""
    from al_core.records import DECISIONS, new_ids, table_of, utc_now

    row = {
        "decision_id": new_ids(1)[0],
        "endpoint": platform.settings.deployment.endpoint,
        "model_name": platform.settings.model.name,
        "action": action,
        "model_version": version,
        "against_version": against,
        "round": round_,
        "reason": reason,
        "person": person,
        "verdict": None if verdict is None else verdict.model_dump_json(),
        "run_id": run_id,
        "decided_at": utc_now(),
    }
    once = ["action", "model_version", "against_version", "round", "reason", "person"]
    on = once if person == LOOP else ["decision_id"]
    platform.ledgers.insert_new("decisions", table_of(DECISIONS, [row]), on=on)


def of_the_loop(platform: Platform, decision: Decision, newest: ModelManifest, run_id: str | None) -> None:
    """Write down what the loop decided of each challenger it looked at."""
    promoted = None if decision.deploy is None else decision.deploy.version
    for version, verdict in decision.verdicts.items():
        record(
            platform,
            "promote" if version == promoted else "keep",
            reason=verdict.reason if version == promoted or promoted is None else f"v{promoted} was promoted instead",
            version=version,
            against=decision.serving,
            round_=newest.round,
            verdict=verdict,
            run_id=run_id,
        )


def held(platform: Platform) -> str | None:
    """Who holds the endpoint and why, as a sentence; None while nobody does."""
    marks = platform.ledgers.read("decisions", endpoint=platform.settings.deployment.endpoint)
    marks = marks.filter(marks["action"].is_in(["hold", "release"]))
    if marks.is_empty() or marks["action"][-1] == "release":
        return None
    last = marks.row(-1, named=True)
    return f"held by {last['person']} since {last['decided_at']:%Y-%m-%d %H:%M} UTC: {last['reason']}"


def taken_back(platform: Platform) -> set[int]:
    """Versions that somebody went back from: they do not return by themselves."""
    rows = platform.ledgers.read("decisions", action="rollback")
    again = platform.ledgers.read("decisions", action="promote")
    back = {version: at for version, at in rows.select("against_version", "decided_at").iter_rows() if version}
    people = again.filter(again["person"] != LOOP).select("model_version", "decided_at").iter_rows()
    for version, at in people:
        if version in back and at > back[version]:
            del back[version]
    return set(back)


def challengers(platform: Platform, serving: int | None, newest: ModelManifest | None = None) -> list[ModelManifest]:
    """Who may take the place of the version that serves, newest first; `newest` ends the list where it is given."""
    from al_core.judging import contest

    last = None if newest is None else newest.version
    gone = taken_back(platform)
    versions = [
        version for version in platform.registry.versions() if (last is None or version <= last) and version not in gone
    ]
    return [platform.registry.manifest(version) for version in contest.challengers(versions, serving)]


def this_person() -> str:
    """The name of the account that runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
