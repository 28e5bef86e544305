"""What Azure Resource Manager takes, by type of resource: Microsoft's generated models, read as JSON schemas.

The templates of `deploy/azure` name types, properties and values; no compiler checks them here. The management
packages hold a model per type: they are fetched when they are first needed, models only, and asked as
`emulators.azure_ml_schemas` asks those of Azure ML, which come from there.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
from filelock import FileLock

from emulators.azure_ml_schemas import Schema, without_nulls
from emulators.azure_ml_schemas import models_of as azure_ml_models
from emulators.node_packages import INSTALL_SECONDS, run_installer

HERE = Path(__file__).parent
MODELS, PACKAGE = HERE / ".arm-models", "azure_arm"
RELEASES = {
    "appcontainers": "azure-mgmt-appcontainers==3.2.0",
    "applicationinsights": "azure-mgmt-applicationinsights==4.1.0",
    "authorization": "azure-mgmt-authorization==4.0.0",
    "containerregistry": "azure-mgmt-containerregistry==14.0.0",
    "eventgrid": "azure-mgmt-eventgrid==10.4.0",
    "keyvault": "azure-mgmt-keyvault==11.0.0",
    "kusto": "azure-mgmt-kusto==3.4.0",
    "loganalytics": "azure-mgmt-loganalytics==12.0.0",
    "msi": "azure-mgmt-msi==7.1.0",
    "network": "azure-mgmt-network==29.0.0",
    "postgresqlflexibleservers": "azure-mgmt-postgresqlflexibleservers==1.0.0",
    "privatedns": "azure-mgmt-privatedns==1.2.0",
    "storage": "azure-mgmt-storage==22.2.0",
}
AZURE_ML = "Azure ML"  # its models come with azure-ai-ml
ROLES = "authorization.v2022_04_01"

# type@api-version -> the models that know it, and the model's name
MODEL_OF = {
    "Microsoft.App/containerApps@2025-01-01": ("appcontainers", "ContainerApp"),
    "Microsoft.App/containerApps/authConfigs@2025-01-01": ("appcontainers", "AuthConfig"),
    "Microsoft.App/managedEnvironments@2025-01-01": ("appcontainers", "ManagedEnvironment"),
    "Microsoft.Authorization/roleAssignments@2022-04-01": (ROLES, "RoleAssignmentCreateParameters"),
    "Microsoft.ContainerRegistry/registries@2025-04-01": ("containerregistry.v2025_04_01", "Registry"),
    "Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01": ("postgresqlflexibleservers", "Server"),
    "Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01": ("postgresqlflexibleservers", "Database"),
    "Microsoft.DBforPostgreSQL/flexibleServers/firewallRules@2024-08-01": (
        "postgresqlflexibleservers",
        "FirewallRule",
    ),
    "Microsoft.EventGrid/systemTopics@2025-02-15": ("eventgrid", "SystemTopic"),
    "Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15": ("eventgrid", "EventSubscription"),
    "Microsoft.Insights/components@2020-02-02": ("applicationinsights.v2020_02_02", "ApplicationInsightsComponent"),
    "Microsoft.KeyVault/vaults@2023-02-01": ("keyvault.v2023_02_01", "VaultCreateOrUpdateParameters"),
    "Microsoft.KeyVault/vaults/secrets@2023-02-01": ("keyvault.v2023_02_01", "SecretCreateOrUpdateParameters"),
    "Microsoft.Kusto/clusters@2024-04-13": ("kusto", "Cluster"),
    "Microsoft.Kusto/clusters/databases@2024-04-13": ("kusto", "Database"),
    "Microsoft.Kusto/clusters/databases/principalAssignments@2024-04-13": ("kusto", "DatabasePrincipalAssignment"),
    "Microsoft.Kusto/clusters/databases/scripts@2024-04-13": ("kusto", "Script"),
    "Microsoft.MachineLearningServices/workspaces@2024-10-01-preview": (AZURE_ML, "Workspace"),
    "Microsoft.MachineLearningServices/workspaces/computes@2024-10-01-preview": (AZURE_ML, "ComputeResource"),
    "Microsoft.MachineLearningServices/workspaces/datastores@2024-10-01-preview": (AZURE_ML, "Datastore"),
    "Microsoft.MachineLearningServices/workspaces/onlineEndpoints@2024-10-01-preview": (AZURE_ML, "OnlineEndpoint"),
    "Microsoft.MachineLearningServices/workspaces/outboundRules@2024-10-01-preview": (
        AZURE_ML,
        "OutboundRuleBasicResource",
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30": ("msi.v2024_11_30", "Identity"),
    "Microsoft.Network/privateDnsZones@2024-06-01": ("privatedns", "PrivateZone"),
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01": ("privatedns", "VirtualNetworkLink"),
    "Microsoft.Network/privateEndpoints@2024-07-01": ("network", "PrivateEndpoint"),
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-07-01": ("network", "PrivateDnsZoneGroup"),
    "Microsoft.Network/virtualNetworks@2024-07-01": ("network", "VirtualNetwork"),
    "Microsoft.OperationalInsights/workspaces@2021-06-01": ("loganalytics", "Workspace"),
    "Microsoft.Storage/storageAccounts@2024-01-01": ("storage.v2024_01_01", "StorageAccountCreateParameters"),
    "Microsoft.Storage/storageAccounts/blobServices@2024-01-01": ("storage.v2024_01_01", "BlobServiceProperties"),
    "Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01": ("storage.v2024_01_01", "BlobContainer"),
    "Microsoft.Storage/storageAccounts/queueServices/queues@2024-01-01": ("storage.v2024_01_01", "StorageQueue"),
}
UNCHECKED = {"Microsoft.Resources/resourceGroups@2024-03-01"}  # a name and a location
ANY = "\N{HORIZONTAL ELLIPSIS}"  # in place of what only the deployment knows


def problems_of(kind: str, body: dict[str, Any]) -> list[str]:
    """What Azure would refuse in a resource of `kind` (type@api-version), each with its place.

    `body`: as it is sent, without name, parent and scope; `ANY` stands for a value of any type.
    """
    if kind not in MODEL_OF:
        return [f"{kind}: no model is known for it"]
    found = _validator(kind).iter_errors(without_nulls(body))
    return sorted(f"{'/'.join(map(str, error.path))}: {error.message}" for error in found if error.instance != ANY)


@cache
def _validator(kind: str) -> jsonschema.protocols.Validator:
    package, name = MODEL_OF[kind]
    models = azure_ml_models(kind.rpartition("@")[2]) if package == AZURE_ML else _models_of(package)
    schema = ArmSchema(models)
    return jsonschema.Draft202012Validator({**schema.reference(name), "$defs": schema.definitions})


class ArmSchema(Schema):
    """Models of resources flatten `properties`: `properties.accessTier` is a property of a property."""

    def _record(self, model: Any) -> dict[str, Any]:
        record: dict[str, Any] = _nothing()
        for name, at in model._attribute_map.items():
            rules = model._validation.get(name, {})
            if rules.get("readonly"):
                continue
            *above, leaf = (part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", at["key"]))
            place = record
            for part in above:
                place = place["properties"].setdefault(part, _nothing())
            place["properties"][leaf] = self._property(model, name, at)
            place["required"] += [leaf] if rules.get("required") else []
        return record


def _nothing() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def fetch() -> None:
    """Bring the models here, once per checkout. Raises `NotInstalled`."""
    ready, wanted = MODELS / ".ready", "\n".join(RELEASES.values())  # written last
    with FileLock(HERE / ".node_modules.lock", timeout=INSTALL_SECONDS):
        if ready.is_file() and ready.read_text() == wanted:
            return
        with tempfile.TemporaryDirectory() as folder:
            options = ["--quiet", "--no-deps", "--dest", folder]
            command = [sys.executable, "-m", "pip", "download", *options, *RELEASES.values()]
            run_installer("Azure's management packages, for their schemas,", *command)
            for wheel in Path(folder).iterdir():
                _unpack(wheel)
        ready.write_text(wanted)


def _unpack(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if found := re.fullmatch(
                r"azure/mgmt/(\w+/(v20\w+/)?(models/\w+|_serialization|_utils/\w+|_vendor)\.py)", name
            ):
                target = MODELS / PACKAGE / found[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


@cache
def _models_of(package: str) -> ModuleType:
    fetch()
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    return importlib.import_module(f"{PACKAGE}.{package}.models")
