"""How a deployment is asked over HTTP: one image, addressed by header whatever the traffic is."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from al_core.errors import InvalidInput
from al_resources.endpoint import DEPLOYMENT_HEADER, DeploymentFailed

if TYPE_CHECKING:
    from al_resources.settings.sections import ServingSettings

LONGEST_QUOTE = 500  # of an answer that is an error
MODEL_STATUS_HEADER = "ms-azureml-model-error-statuscode"  # Azure answers 424 itself and names the container's here


class NotAdmitted(DeploymentFailed):
    """The endpoint does not answer this caller."""


def caller_of(settings: ServingSettings) -> dict[str, Any]:
    """What httpx needs to be let in by the scoring service: the token, and whom to take for the service.

    With TLS its own certificate is the only one that is trusted, whoever signed it and whatever name it bears: the
    service is asked by its address on this machine.

    Raises:
        InvalidInput: the certificate cannot be read.
    """
    caller: dict[str, Any] = {}
    if token := settings.token.get_secret_value():
        caller["headers"] = {"authorization": f"Bearer {token}"}
    if settings.tls_certificate:
        try:
            trusting = ssl.create_default_context(cafile=settings.tls_certificate)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidInput(
                f"serving.tls_certificate = {settings.tls_certificate!r} cannot be read: {error}; expected a PEM file"
            ) from error
        trusting.check_hostname = False
        trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        caller["verify"] = trusting
    return caller


def ask(
    address: str,
    deployment: str,
    image: bytes,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
) -> Any:
    """The deployment's answer to one image. Raises `DeploymentFailed`: none within `seconds`, or an error."""
    import httpx

    addressed = {DEPLOYMENT_HEADER: deployment, "content-type": "application/octet-stream", **(headers or {})}
    try:
        answer = httpx.post(address, content=image, headers=addressed, timeout=seconds, verify=verify)
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
