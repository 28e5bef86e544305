"""Where the traffic of a demo goes, and what lets it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from al_resources.endpoint.asking import caller_of

if TYPE_CHECKING:
    from al_resources.platform import Platform


def scoring_address(platform: Platform) -> tuple[str, dict[str, Any]]:
    """Where images are scored, and what an `httpx.Client` needs: this machine's service, or a workspace's endpoint.

    Raises:
        ActiveLearningError: the workspace has no such endpoint yet, or does not say.
    """
    from al_resources.endpoint.local import LocalEndpoint

    serving = platform.settings.serving
    if isinstance(platform.endpoint, LocalEndpoint):
        return f"{serving.url}/score", caller_of(serving)
    from al_resources.endpoint.azure_ml_online import AzureMLOnlineEndpoint

    assert isinstance(platform.endpoint, AzureMLOnlineEndpoint)
    address, key = platform.endpoint.address_and_key()
    return address, {"headers": {"authorization": f"Bearer {key}", "content-type": "application/octet-stream"}}
