"""`deploy/azure`, as far as it can be checked without a compiler and a subscription.

Its files are parsed, every resource is held to Microsoft's generated models of its api-version, names between modules
and settings to each other.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("tree_sitter_bicep", reason="the parser of the templates: pip install tree-sitter-bicep")

from al_resources.azure.data_explorer import setup_commands
from al_resources.settings import load_settings
from al_resources.settings.settings import setting_keys
from emulators.azure_arm_schemas import MODEL_OF, UNCHECKED, problems_of
from tests.bicep_files import BicepFile

AZURE = Path(__file__).parents[2] / "deploy/azure"
MAIN = AZURE / "main.bicep"
FILES = sorted(AZURE.rglob("*.bicep"))
NAMES = [str(path.relative_to(AZURE)) for path in FILES]
BUILT_IN = {  # names of Azure's own roles, as its documentation has them
    "43d0d8ad-25c7-4714-9337-8ba259a9fe05": "Monitoring Reader",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a": "Storage Queue Data Message Sender",
    "f1a07417-d97a-45cb-824c-7a7467783830": "Managed Identity Operator",
    "f6c7c914-8db3-469d-8ca1-694a8f32e121": "AzureML Data Scientist",
}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_template_is_bicep(path: Path) -> None:
    file = BicepFile(path)
    wrong = [node.start_point for node in file.all("ERROR")]
    assert not file.root.has_error, wrong


@pytest.mark.parametrize("branch", [0, 1], ids=["as conditions hold", "as they do not"])
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_resource_is_one_that_azures_models_take(path: Path, branch: int) -> None:
    resources = [one for one in BicepFile(path, branch).resources if not one.existing and one.kind not in UNCHECKED]
    problems = {f"{one.symbol} ({one.kind})": found for one in resources if (found := problems_of(one.kind, one.body))}
    assert problems == {}


def test_every_model_that_is_known_is_used() -> None:
    used = {one.kind for path in FILES for one in BicepFile(path).resources}
    assert set(MODEL_OF) <= used | {"Microsoft.Storage/storageAccounts/queueServices@2024-01-01"}


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("Microsoft.Storage/storageAccounts@2024-01-01", {"location": "x", "kind": "StorageV2"}, "'sku' is a required"),
        (
            "Microsoft.Kusto/clusters/databases@2024-04-13",
            {"kind": "ReadWrite", "location": "x", "properties": {"softDeletPeriod": "P1D"}},
            "softDeletPeriod",
        ),
        (
            "Microsoft.App/containerApps/authConfigs@2025-01-01",
            {"properties": {"globalValidation": {"unauthenticatedClientAction": "Redirect"}}},
            "does not match",
        ),
        ("Microsoft.App/containerApps/authConfigs@2024-01-01", {}, "no model is known"),
        ("Microsoft.Network/privateDnsZones@2024-06-01", {"properties": {"provisioningState": "x"}}, "unexpected"),
    ],
)
def test_what_azure_would_refuse_is_found(kind: str, body: dict[str, object], said: str) -> None:
    assert said in " ".join(problems_of(kind, body))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_modules_get_the_parameters_they_declare_and_give_the_outputs_that_are_read(path: Path) -> None:
    file = BicepFile(path)
    text = path.read_text()
    for symbol, (target, given) in file.modules.items():
        module = BicepFile(target.resolve())
        required = {name for name, must in module.parameters.items() if must}
        assert required <= set(given) <= set(module.parameters), symbol
        read = set(re.findall(rf"\b{symbol}\.outputs\.(\w+)", text))
        assert read <= set(module.outputs), symbol


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_name_that_is_used_is_declared_and_every_parameter_is_used(path: Path) -> None:
    file = BicepFile(path)
    text = path.read_text()
    for name in file.parameters:
        assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{name} is declared and not used"
    declared = {*file.parameters, *file.variables, *file.modules, *(one.symbol for one in file.resources)}
    inner = set(re.findall(r"\[for (\w+) in", text))
    for names in re.findall(r"\[for \((\w+), (\w+)\) in", text):
        inner |= set(names)
    used = {
        node.text.decode()
        for parent in ("member_expression", "interpolation", "ternary_expression", "arguments", "array")
        for found in file.all(parent)
        for node in found.named_children
        if node.type == "identifier" and node.text
    }
    functions = {"environment", "resourceGroup", "subscription", "tenant"}
    assert used - functions <= declared | inner


def test_the_tables_are_those_that_the_platform_sets_up() -> None:
    script = (AZURE / "tables.kql").read_text()
    assert [line for line in script.splitlines() if line and not line.startswith("//")] == setup_commands()
    template = (AZURE / "modules/data_explorer.bicep").read_text()
    assert "'softdelete = 730d', 'softdelete = ${retentionDays}d'" in template
    changed = script.replace("softdelete = 730d", "softdelete = 90d")
    assert [line for line in changed.splitlines() if line.startswith(".")] == setup_commands(90)


def test_every_role_is_called_by_its_name() -> None:
    for path in FILES:
        text = path.read_text()
        for role in re.findall(r"'([0-9a-f]{8}-[0-9a-f-]{27})'", text):
            named = re.search(rf"'{role}'(?: // (.+))?", text)
            assert named is not None
            assert BUILT_IN[role] in (named[1] or "Managed Identity Operator"), path


def variables_of(name: str) -> dict[str, str]:
    """Names and values of a list of environment variables in host.bicep."""
    file = BicepFile(AZURE / "modules/host.bicep")
    return {each["name"]: each.get("value", "") for each in file.value(file.variables[name])}


def test_what_the_containers_and_the_machine_of_a_person_are_told_are_settings() -> None:
    keys = {f"AL_{key.replace('.', '__').upper()}" for key, _ in setting_keys()}
    host = BicepFile(AZURE / "modules/host.bicep")
    told = {*variables_of("variables"), *variables_of("labelingVariables"), *BicepFile(MAIN).outputs}
    told |= set(host.value(host.variables["scoringVariables"]))
    ours = {name for name in told if name.startswith("AL_")}
    assert len(ours) > 15
    assert ours <= keys


def test_the_containers_start_with_such_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AL_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    values = {
        "AL_PROFILE": "azure",
        "AL_AZURE__KUSTO_URI": "https://adxa.westeurope.kusto.windows.net",
        "AL_AZURE__KUSTO_RETENTION_DAYS": "730",
        "AL_AZURE__BLOB_ACCOUNT_URL": "https://sta.blob.core.windows.net",
        "AL_AZURE__EVENTS_QUEUE_URL": "https://sta.queue.core.windows.net/labeling-exports",
        "AL_AZURE_ML__ENVIRONMENT_VARIABLES": json.dumps({"AL_PROFILE": "azure"}),
        "AL_DEPLOYMENT__ENDPOINT": "abc-classifier",
        "AL_LABELING_PAGE__PUBLIC_URL": "https://abc-labeling.x.westeurope.azurecontainerapps.io",
        "AL_LABELING_PAGE__TRUSTED_PROXIES": json.dumps(["127.0.0.1/32", "::1/128"]),
        "AL_LABELING_PAGE__LOGIN": "entra",
        "AL_LABELING_PAGE__HOST": "0.0.0.0",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.azure_ml.environment_variables == {"AL_PROFILE": "azure"}
    assert settings.labeling_page.trusted_proxies == ("127.0.0.1/32", "::1/128")
    assert set(values) <= {*variables_of("variables"), *variables_of("labelingVariables")}


def test_defaults_are_those_of_the_settings() -> None:
    settings = load_settings()
    text = "\n".join(path.read_text() for path in FILES)
    for value in (
        settings.azure_ml.compute,
        settings.azure_ml.batch_compute,
        settings.azure_ml.instance_type,
        settings.azure.kusto_database,
        settings.azure.container,
    ):
        assert f"'{value}'" in text
    assert f"param retentionDays int = {settings.azure.kusto_retention_days}" in text


def test_azd_gives_every_parameter_that_has_no_default() -> None:
    project = yaml.safe_load((AZURE / "azure.yaml").read_text())
    assert project["infra"] == {"provider": "bicep", "path": ".", "module": "main"}
    given = json.loads((AZURE / "main.parameters.json").read_text())["parameters"]
    parameters = BicepFile(MAIN).parameters
    assert {name for name, must in parameters.items() if must} <= set(given) <= set(parameters)


def test_pages_are_reached_through_the_login_alone() -> None:
    text = (AZURE / "modules/host.bicep").read_text()
    assert text.count("external: hasLogin") == 2
    assert text.count("external: false") == 1
    assert text.count("'RedirectToLoginPage'") == 2
    assert "allowSharedKeyAccess: false" in (AZURE / "modules/storage.bicep").read_text()
