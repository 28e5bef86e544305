"""The rollout: a new model version takes the traffic in steps, or the old one gets it back.

The same for every endpoint. The new version comes up under the free colour without traffic, answers a smoke
test, is given traffic step by step and watched at each, and is promoted. Whatever goes wrong, the champion
gets all of the traffic back, the new deployment is removed, and the reason is kept. The old colour stays up
without traffic until the next rollout, so that going back to it is a change of traffic and nothing else; where it
costs by the hour, for a time only (`retirement.py`).

A rollout that was killed half-way is found in the endpoint's state and finished by the next one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from al_core.errors import InvalidInput
from al_resources.endpoint import DeploymentFailed, Endpoint, EndpointState

COLOURS = ("blue", "green")
LOG_TAIL = 10  # lines that go into the reason
NEAR = 0.02  # probabilities that differ by less may trade places between two machines
LOOKS_PER_STEP = 4  # how often the health is read while a step is watched


Outcome = Literal["promoted", "rolled_back", "already_serving"]


@dataclass(frozen=True)
class RolloutResult:
    """How a rollout ended."""

    outcome: Outcome
    reason: str  # one sentence for people
    model_version: int
    previous_version: int | None  # the champion before; None at the first deployment
    deployment: str  # the colour the version was given
    steps: tuple[str, ...] = ()  # what was done, in order, for people


def roll_out(
    endpoint: Endpoint,
    model_version: int,
    *,
    smoke_images: Sequence[tuple[bytes, str | None]],
    steps: Sequence[int] = (10, 50, 100),
    watch_seconds: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
    log: Callable[[str], None] = lambda line: None,
) -> RolloutResult:
    """Bring `model_version` into the traffic of `endpoint`.

    Args:
        smoke_images: files the new deployment has to answer before it gets traffic, each with the label that
            this model version gave it when it was evaluated, or None; another answer means another model or
            other preprocessing than what was judged.
        steps: percent of the traffic, ascending; 100 is added where it is missing.
        watch_seconds: how long each step is watched.

    Raises:
        ValueError: the steps are no ascending percentages, or there is no smoke image.
        DeploymentFailed: the traffic could not be given back to the champion; a person has to look.
    """
    shares = _checked_steps(steps)
    if not smoke_images:
        raise InvalidInput("a rollout needs at least one smoke image: nothing else proves that the model answers")
    done: list[str] = []

    def note(line: str) -> None:
        done.append(line)
        log(line)

    state = endpoint.state()
    champion = _champion(state)
    previous = state.deployments[champion] if champion else None

    def result(outcome: Outcome, reason: str, deployment: str) -> RolloutResult:
        return RolloutResult(outcome, reason, model_version, previous, deployment, tuple(done))

    if champion and previous == model_version:
        _give_all_traffic(endpoint, champion)  # finishes a rollout that was killed before its last step
        return result("already_serving", f"version {model_version} is serving as {champion}", champion)

    challenger = COLOURS[0] if champion != COLOURS[0] else COLOURS[1]
    try:
        _bring_up(endpoint, state, champion, challenger, model_version=model_version, note=note)
        _smoke_test(endpoint, challenger, model_version, smoke_images)
        note(f"{challenger} answered {len(smoke_images)} smoke images as expected")
        for share in shares if champion else (100,):
            endpoint.set_traffic({champion: 100 - share, challenger: share} if champion else {challenger: share})
            note(f"{challenger} has {share} % of the traffic")
            _watch(endpoint, challenger, watch_seconds, sleep)
    except (DeploymentFailed, ValueError) as trouble:
        reason = _give_back(endpoint, champion, challenger, trouble)
        note(f"rolled back: {reason}")
        return result("rolled_back", reason, challenger)
    except BaseException as interruption:  # the run was cancelled: leave nothing half-way, then go
        note(f"interrupted: {_give_back(endpoint, champion, challenger, interruption)}")
        raise
    before = f"version {previous} stays up as {champion}" if champion else "it is the first deployment"
    return result("promoted", f"version {model_version} serves as {challenger}; {before}", challenger)


def end_killed_rollout(endpoint: Endpoint, log: Callable[[str], None]) -> None:
    """Where a rollout was killed between its steps, give all traffic to who has most of it, of equals the older.

    For those who know that no rollout is under way.
    """
    state = endpoint.state()
    if sum(share > 0 for share in state.traffic.values()) < 2:
        return
    champion = _champion(state)
    assert champion is not None
    _give_all_traffic(endpoint, champion)
    log(f"a rollout was killed between its steps; version {state.deployments[champion]} has all traffic again")


def _checked_steps(steps: Sequence[int]) -> tuple[int, ...]:
    if any(not 0 < step <= 100 for step in steps) or list(steps) != sorted(set(steps)):
        raise InvalidInput(f"traffic steps {tuple(steps)}: expected ascending percentages between 1 and 100")
    return (*(step for step in steps if step < 100), 100)


def _champion(state: EndpointState) -> str | None:
    """Who has most traffic; where a killed rollout left equal shares, the older version."""
    live = [name for name in state.deployments if state.traffic.get(name, 0) > 0]
    return max(live, key=lambda name: (state.traffic[name], -state.deployments[name]), default=None)


def _give_all_traffic(endpoint: Endpoint, deployment: str) -> None:
    state = endpoint.state()
    wanted = {name: 100 if name == deployment else 0 for name in state.deployments}
    if {name: state.traffic.get(name, 0) for name in state.deployments} != wanted:
        endpoint.set_traffic(wanted)


def _bring_up(
    endpoint: Endpoint,
    state: EndpointState,
    champion: str | None,
    challenger: str,
    *,
    model_version: int,
    note: Callable[[str], None],
) -> None:
    """The challenger stands without traffic; what an earlier rollout left under its name goes first."""
    if challenger in state.deployments and champion is not None:
        _give_all_traffic(endpoint, champion)
    if state.deployments.get(challenger) == model_version and not endpoint.health(challenger):
        note(f"{challenger} holds version {model_version} already: an earlier rollout left it")
        return
    if challenger in state.deployments:
        endpoint.remove(challenger)
    endpoint.create(challenger, model_version)
    note(f"{challenger} is up with version {model_version}")


def _smoke_test(
    endpoint: Endpoint, deployment: str, model_version: int, images: Sequence[tuple[bytes, str | None]]
) -> None:
    for number, (image, expected) in enumerate(images, 1):
        answer = endpoint.score(deployment, image)
        if problem := _problem_of(answer, model_version, expected):
            raise DeploymentFailed(f"smoke test, image {number} of {len(images)}: {problem}")


def _problem_of(answer: dict[str, Any], model_version: int, expected: str | None) -> str | None:
    """What is wrong with one answer, or None."""
    labels, probs = answer.get("labels") or [], answer.get("probs") or []
    if answer.get("model_version") != model_version:
        return f"answered by version {answer.get('model_version')}, expected {model_version}"
    if not labels or len(labels) != len(set(labels)) or len(labels) != len(probs):
        return f"{len(probs)} probabilities for {len(labels)} labels"
    if not all(math.isfinite(p) and p >= 0 for p in probs) or abs(sum(probs) - 1) > 1e-3:
        return f"no probability distribution: {[round(p, 4) for p in probs[:5]]}, sum {sum(probs):.4f}"
    if expected is not None and expected not in labels:
        return f"does not know the class {expected!r}"
    if expected is not None and probs[labels.index(expected)] < max(probs) - NEAR:
        return f"answered {labels[probs.index(max(probs))]!r}, the evaluated model said {expected!r}"
    return None


def _watch(endpoint: Endpoint, deployment: str, seconds: float, sleep: Callable[[float], None]) -> None:
    for _ in range(LOOKS_PER_STEP):
        sleep(seconds / LOOKS_PER_STEP)
        if problems := endpoint.health(deployment):
            raise DeploymentFailed(f"{deployment} is unhealthy: {'; '.join(problems)}")


def _give_back(endpoint: Endpoint, champion: str | None, challenger: str, trouble: BaseException) -> str:
    """All traffic to the champion, the challenger gone; returns the reason with the tail of its log."""
    reason = str(trouble) or type(trouble).__name__
    state = endpoint.state()
    if champion is not None:
        _give_all_traffic(endpoint, champion)
    elif state.traffic.get(challenger):
        endpoint.set_traffic({})
    try:
        if tail := list(endpoint.logs(challenger))[-LOG_TAIL:]:
            reason += "\n" + "\n".join(tail)
    except DeploymentFailed as error:
        reason += f" (and its log cannot be read: {error})"
    if challenger in state.deployments:
        try:
            endpoint.remove(challenger)
        except DeploymentFailed as error:  # without traffic it harms nobody; the next rollout replaces it
            reason += f" (and {challenger} could not be removed: {error})"
    return reason
