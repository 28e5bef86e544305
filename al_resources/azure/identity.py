"""Who this process is to Azure: one identity for storage, Data Explorer and the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from al_resources.settings.azure_data import AzureDataSettings


def azure_credential(settings: AzureDataSettings) -> TokenCredential:
    """The credential that `azure.credential` names; tokens are renewed by it.

    A managed identity asks the machine it runs on and the CLI the cloud it is logged in to, so `azure.authority` is
    for `default`, which tries environment, workload identity, managed identity and developers' logins in turn.
    """
    from azure.identity import AzureCliCredential, DefaultAzureCredential, ManagedIdentityCredential

    if settings.credential == "managed_identity":
        return ManagedIdentityCredential(client_id=settings.client_id or None)
    if settings.credential == "cli":
        return AzureCliCredential()
    chosen = {"managed_identity_client_id": settings.client_id} if settings.client_id else {}
    return DefaultAzureCredential(authority=settings.authority, **chosen)
