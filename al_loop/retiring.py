"""The version that served before stays up for a while, ready to go back to; then its machines are given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from al_resources.endpoint import Endpoint

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Retired:
    """A version that another one replaced."""

    deployment_id: str  # of the rollout that replaced it, in the deployments ledger
    model_version: int
    replaced_by: int


def due(deployments: pl.DataFrame, *, grace: timedelta, now: datetime) -> Retired | None:
    """Whom the newest promotion replaced, once its grace is over. `deployments`: rows of `DEPLOYMENTS`."""
    promoted = deployments.filter(outcome="promoted").sort("deployed_at")
    if promoted.is_empty():
        return None
    newest = promoted.row(-1, named=True)
    if newest["previous_version"] is None or now - newest["deployed_at"] < grace:
        return None
    return Retired(newest["deployment_id"], newest["previous_version"], newest["model_version"])


def remove(endpoint: Endpoint, retired: Retired) -> str | None:
    """Remove its deployment; returns the name, None where it is gone or has been given another task.

    Raises:
        DeploymentFailed: the endpoint cannot be asked, or refuses.
    """
    state = endpoint.state()
    if state.serving_version != retired.replaced_by:
        return None  # a rollout has come since, or somebody went back
    for name, version in state.deployments.items():
        if version == retired.model_version and not state.traffic.get(name):
            endpoint.remove(name)
            return name
    return None
