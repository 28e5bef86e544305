"""How a deployment is asked over HTTP: one image, addressed by header whatever the traffic is."""

from __future__ import annotations

from typing import Any

import httpx

from al_resources.endpoint import DEPLOYMENT_HEADER, DeploymentFailed

LONGEST_QUOTE = 500  # of an answer that is an error
MODEL_STATUS_HEADER = "ms-azureml-model-error-statuscode"  # Azure answers 424 itself and names the container's here


class NotAdmitted(DeploymentFailed):
    """The endpoint does not answer this caller."""


def ask(address: str, deployment: str, image: bytes, *, seconds: float, headers: dict[str, str] | None = None) -> Any:
    """The deployment's answer to one image. Raises `DeploymentFailed`: none within `seconds`, or an error."""
    addressed = {DEPLOYMENT_HEADER: deployment, "content-type": "application/octet-stream", **(headers or {})}
    try:
        answer = httpx.post(address, content=image, headers=addressed, timeout=seconds)
    except httpx.HTTPError as error:
        raise DeploymentFailed(f"{deployment} did not answer: {error}") from error
    said = answer.text[:LONGEST_QUOTE]
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise NotAdmitted(f"{deployment} answered {answer.status_code}: {said}")
    if answer.status_code != httpx.codes.OK:
        by_model = answer.headers.get(MODEL_STATUS_HEADER)
        inside = f" for its container's {by_model}" if by_model else ""
        raise DeploymentFailed(f"{deployment} answered {answer.status_code}{inside}: {said}")
    try:
        (only,) = answer.json()
    except (ValueError, TypeError) as error:
        raise DeploymentFailed(f"{deployment} answered no list of one answer: {said}") from error
    return only
