"""`docs/azure.md` against what it tells of: `al azure init --dry-run`, the templates, the settings, the commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

pytest.importorskip("tree_sitter_bicep", reason="the parser of the templates: pip install tree-sitter-bicep")

from al_cli.main import cli
from al_core.records import LEDGERS
from al_resources.ledgers import EXPIRING
from al_resources.profiles.azure import MANAGED_WATCH_SECONDS
from al_resources.settings import load_settings
from al_resources.settings.settings import setting_keys
from al_serving.collector import IMAGE_WRITERS
from tests.bicep_files import BicepFile

ROOT = Path(__file__).parents[2]
AZURE = ROOT / "deploy/azure"
GUIDE = (ROOT / "docs/azure.md").read_text()
FLAT = " ".join(GUIDE.split())  # as it reads, wherever lines end
CODE = re.findall(r"`([^`]+)`", GUIDE)
BLOCKS = re.findall(r"^ {4,7}(?!- |\|)(\S.*)$", GUIDE, re.MULTILINE)  # what is indented to be typed
TEMPLATES = {path.name: path.read_text() for path in AZURE.rglob("*.bicep")}
ALL_TEMPLATES = "\n".join(TEMPLATES.values())
SECTIONS = {key.partition(".")[0] for key, _ in setting_keys()}
MANUAL = "## From a subscription to a running loop", "## All of it as code"


def part(begin: str, end: str) -> str:
    return GUIDE[GUIDE.index(begin) : GUIDE.index(end)]


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `al azure init --dry-run` prints with the settings of step 2, as they stand in the guide."""
    lines = [line.strip() for line in part(*MANUAL).splitlines()]
    begin = lines.index('profile = "azure"')
    written = [line for line in lines[begin:] if line and not line.startswith("`credential`")]
    toml = written[: next(n for n, line in enumerate(written) if line.startswith("events_queue_url")) + 1]
    named = {"<cluster>": "adx", "<region>": "westeurope", "<account>": "stal"}
    text = "\n".join(toml)
    for placeholder, name in named.items():
        text = text.replace(placeholder, name)
    (tmp_path / "al.toml").write_text(text)
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    done = CliRunner().invoke(cli, ["azure", "init", "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_dry_run_prints_what_the_guide_says_that_it_does(dry_run: str) -> None:
    assert "create container active-learning in https://stal.blob.core.windows.net" in dry_run
    for queue in ("labeling-exports", "labeling-exports-poison"):
        assert f"create queue https://stal.queue.core.windows.net/{queue}\n" in dry_run
    for table in ("predictions", "embeddings", *LEDGERS):
        assert f".create-merge table {table} (" in dry_run
    kept = dict(re.findall(r"table (\w+) policy retention softdelete = (\d+)d", dry_run))
    days = load_settings().azure.kusto_retention_days
    assert f"`azure.kusto_retention_days` ({days})" in FLAT
    ageing = ("predictions", "embeddings", *EXPIRING)
    assert {kept.pop(table) for table in ageing} == {str(days)}
    assert set(kept.values()) == {"36500"}, "all other ledgers for ever"


def test_the_templates_make_what_the_dry_run_makes(dry_run: str) -> None:
    events = TEMPLATES["events.bicep"]
    default = re.search(r"param queueName string = '(.+)'", events)
    assert default is not None
    made = {name.replace("${queueName}", default[1]) for name in ("${queueName}", "${queueName}-poison")}
    assert "name: queueName" in events
    assert "name: '${queueName}-poison'" in events
    assert made == set(re.findall(r"create queue \S+/(\S+)", dry_run))
    assert "'active-learning'" in TEMPLATES["storage.bicep"] + TEMPLATES["main.bicep"]
    script = (AZURE / "tables.kql").read_text()
    assert all(line in script for line in dry_run.splitlines() if line.startswith("."))


def test_events_are_delivered_as_the_guide_says(dry_run: str) -> None:
    template = TEMPLATES["events.bicep"]
    command = shlex.split(
        dry_run[dry_run.index("az deployment") :].partition("\n\n")[0].replace("<", "").replace(">", "")
    )
    assert "deploy/azure/events.bicep" in command
    assert "primaryLocation" in command[-1], "at the account's location"
    for told, done in {
        "`labeling/exports/`": "/blobs/labeling/exports/'",
        "into the container `dead-letters`": "'dead-letters'",
        "under the topic's own identity": "SystemAssigned",
        "dead-lettering on": "deadLetterWithResourceIdentity",
        "name it with `topicName`": "param topicName string",
    }.items():
        assert told in FLAT
        assert done in template


@pytest.mark.parametrize("key", sorted({one for one in CODE if re.fullmatch(r"[a-z_]+\.[a-z_]+( = .+)?", one)}))
def test_a_setting_that_is_named_exists_and_takes_the_value(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = key.partition(" = ")
    section, _, field = name.partition(".")
    if section not in SECTIONS or field in {"yml", "yaml"}:
        assert field in {"toml", "env", "bicep", "yaml", "json", "ipynb", "sh", "kql", "yml"}, (
            f"{name} is no setting, nor a file"
        )
        return
    assert name in {known for known, _ in setting_keys()}
    if value and "<" not in value:
        monkeypatch.setenv(f"AL_{section.upper()}__{field.upper()}", value.strip('"'))
        taken = getattr(getattr(load_settings(), section), field)
        assert taken == type(taken)(value.strip('"'))


def test_defaults_that_are_told_are_those_of_the_settings() -> None:
    settings = load_settings()
    assert settings.serving.spool_bytes == 10_000_000_000
    assert "`serving.spool_bytes` (10 GB)" in FLAT
    assert settings.azure.kusto_window_rows == 5_000_000
    assert "`azure.kusto_window_rows` (5 million)" in FLAT
    assert f"`deployment.watch_seconds = {MANAGED_WATCH_SECONDS:.0f}`" in FLAT
    assert f"Images are written {IMAGE_WRITERS} at a time" in FLAT
    assert f'instance_type = "{settings.azure_ml.instance_type}"' in FLAT
    assert f"ready_seconds = {settings.azure_ml.ready_seconds:.0f} " in FLAT
    for machine in ("DS2_v2", "DS3_v2", "DS4_v2", "DS5_v2"):
        assert machine not in FLAT + ALL_TEMPLATES + settings.azure_ml.model_dump_json(), "they end on 2028-05-01"


def test_commands_that_are_named_exist_with_their_options() -> None:
    typed = {one for one in [*CODE, *BLOCKS] if re.match(r"al [a-z-]+", one)}
    assert len(typed) > 12
    for text in typed:
        words = text.replace("|", " ").split()[1:]
        command: click.Command = cli
        while words and isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words[0])
            if found is None:
                break
            command, words = found, words[1:]
        assert command is not cli or words[0].startswith("--"), f"there is no `{text}`"
        options = {option for one in [*command.params, *cli.params] for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, text


def test_roles_of_the_tables_are_those_that_the_templates_give() -> None:
    rows = re.findall(r"^ *\| [^|]+ \|(?: [^|]+ \|)? ([A-Z][A-Za-z ]+) \| [^|]+ \|$", GUIDE, re.MULTILINE)
    roles = {role for role in rows if role != "Viewer and Ingestor" and not role.startswith("Delta")}
    assert {"Storage Blob Data Contributor", "Storage Queue Data Contributor", "AzureML Data Scientist"} <= roles
    given = set(re.findall(r"'[0-9a-f]{8}-[0-9a-f-]{27}' // (.+)", ALL_TEMPLATES))
    assert roles <= given, "by name, beside the id that tests/cli/test_azure_templates.py looks up"
    assert "Viewer and Ingestor" in rows
    kinds = set(re.findall(r"'(Viewer|Ingestor|Admin)'", TEMPLATES["data_explorer.bicep"]))
    assert {"Viewer", "Ingestor"} <= kinds


def test_parameters_and_outputs_that_are_named_are_those_of_the_templates() -> None:
    main = BicepFile(AZURE / "main.bicep")
    parameters = set(main.parameters)
    for name in ("privateNetworking", "labelingTrustedProxies", "clusterSku", "clusterInstances"):
        assert f"`{name}" in GUIDE
        assert name in parameters
    deployed = re.search(r"--template-file deploy/azure/main\.bicep --parameters (.+?)`", FLAT)
    assert deployed is not None
    assert {one.partition("=")[0] for one in deployed[1].split()} <= parameters
    by_azd = json.dumps(json.loads((AZURE / "main.parameters.json").read_text()))
    for variable in re.findall(r"azd env set (\w+)", GUIDE):
        assert f"${{{variable}" in by_azd, variable
    for output in (*re.findall(r"azd env get-value (\w+)", GUIDE), "DAGSTER_URL", "LABELING_URL"):
        assert output in main.outputs


def test_the_costs_name_every_part_that_costs() -> None:
    """A part of the templates that is paid for is a row of the estimate."""
    costs = part("### What it costs", "## How events are handled")
    paid = {
        "Microsoft.Kusto/clusters@": "Data Explorer",
        "Microsoft.MachineLearningServices/workspaces/onlineEndpoints@": "online endpoint",
        "Microsoft.App/containerApps@": "host:",
        "Microsoft.DBforPostgreSQL/flexibleServers@": "PostgreSQL",
        "Microsoft.MachineLearningServices/workspaces/computes@": "training",
        "Microsoft.Storage/storageAccounts@": "storage",
        "Microsoft.ContainerRegistry/registries@": "registry",
        "Microsoft.OperationalInsights/workspaces@": "logs",
        "Microsoft.EventGrid/systemTopics@": "events, queues, vault",
        "Microsoft.Network/privateEndpoints@": "private networking",
    }
    for kind, row in paid.items():
        assert kind in ALL_TEMPLATES, kind
        assert re.search(rf"^\| {row}", costs, re.MULTILINE), row


def test_paths_modules_and_sensors_that_are_named_exist() -> None:
    for path in {one for one in CODE if re.fullmatch(r"(deploy|tests|docs|emulators)/[\w./-]+\.\w+", one)}:
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", GUIDE):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    names = "\n".join(path.read_text() for path in (ROOT / "sensors").glob("*.py"))
    for name in ("selection_schedule", "next_round_sensor", "labeling_export_events_sensor", "retired_deployments"):
        assert name in GUIDE
        assert name in names, name


def test_what_no_subscription_proved_is_told_beside_what_was_proven() -> None:
    rows = part("## What was proven, and on what", "No line of this was run").splitlines()
    assert "| | proven on | not proven |" in rows
    assert len([row for row in rows if row.startswith("| ")]) > 12
    assert GUIDE.rstrip().endswith("No line of this was run against a subscription.")


def test_limits_and_the_way_back_are_told() -> None:
    limits = " ".join(part("**Limits to know", "## Tear down").split())
    for told in (
        "cores of GPU families (NCasT4_v3) | 0",
        "500 requests a second",
        "5 MB a second",
        "end on 2028-05-01",
    ):
        assert told in limits
    assert "streaming ingestion | not on a free cluster" in limits
    down = part("## Tear down", "## What was proven")
    assert "azd down --purge" in down
    for kind in ("online-endpoint delete", "batch-endpoint delete", "compute delete", "workspace delete"):
        assert f"az ml {kind}" in down
    callers = " ".join(part("**Watching.**", "**Labeling.**").split())
    for told in (
        "**424**",
        "413 (too large)",
        "503 (the log is full",
        "ms-azureml-model-error-statuscode",
        "408",
        "429",
    ):
        assert told in callers
