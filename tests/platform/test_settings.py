"""One way to configure: al.toml, overridden by the environment, refused with the key and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_cli.running_loop import answers_on_this_machine
from al_resources.platform import Platform
from al_resources.prediction_store.referring import engine_of
from al_resources.settings import SettingsError, load_settings, setting_keys, setting_sources


@pytest.fixture
def al_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file in force; empty until a test writes it."""
    file = tmp_path / "al.toml"
    file.write_text("")
    monkeypatch.setenv("AL_CONFIG", str(file))
    return file


def test_the_file_overrides_the_default(al_toml: Path) -> None:
    al_toml.write_text("[selection]\nbudget = 7\n")
    assert load_settings().selection.budget == 7
    assert load_settings().selection.control_share == 0.1


def test_the_environment_overrides_the_file(al_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    al_toml.write_text('[selection]\nbudget = 7\nstrategy = "entropy"\n')
    monkeypatch.setenv("AL_SELECTION__BUDGET", "9")
    settings = load_settings()
    assert (settings.selection.budget, settings.selection.strategy) == (9, "entropy")


def test_home_is_relative_to_the_file_and_not_to_the_working_directory(
    al_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    al_toml.write_text('home = "data"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_settings().home == tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "bad", "hint"),
    [
        ("[selection]\nbudgte = 7\n", "selection.budgte", "selection.budget"),
        ("[selecton]\nbudget = 7\n", "selecton", "did you mean selection?"),
        ("homee = 'x'\n", "homee", "home"),
        ("[training]\nlerning_rate = 0.1\n", "training.lerning_rate", "training.learning_rate"),
    ],
)
def test_a_typo_in_the_file_is_named_with_the_nearest_valid_key(al_toml: Path, text: str, bad: str, hint: str) -> None:
    al_toml.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert bad in str(error.value)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("variable", "hint"), [("AL_SELECTION__BUDGTE", "AL_SELECTION__BUDGET"), ("AL_PROFIL", "AL_PROFILE")]
)
def test_a_typo_in_the_environment_is_named_too(
    al_toml: Path, monkeypatch: pytest.MonkeyPatch, variable: str, hint: str
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(SettingsError, match=hint):
        load_settings()


def test_a_value_that_does_not_fit_is_named_with_what_was_expected(al_toml: Path) -> None:
    al_toml.write_text("[selection]\nbudget = 0\ncontrol_share = 2\n")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert "selection.budget = 0" in str(error.value)
    assert "greater than or equal to 1" in str(error.value)
    assert "selection.control_share = 2" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "address", "expected"),
    [
        ("kusto_uri", "mycluster", "expected https://<host>"),
        ("kusto_uri", "http://mycluster.kusto.windows.net", "expected https://<host>"),
        ("kusto_uri", "https://mycluster.kusto.windows.net/mydb", "settings of their own"),
        ("kusto_ingest_uri", "https://", "expected https://<host>"),
        ("blob_account_url", "https://images.blob.core.windows.net/container", "settings of their own"),
        ("blob_account_url", "https://images.blob.core.windows.net?sv=1&sig=SECRET", "AZURE_STORAGE_SAS_TOKEN"),
        ("events_queue_url", "https://images.queue.core.windows.net", "the queue's name at its end"),
        ("events_queue_url", "https://images.queue.core.windows.net/a/b", "the queue's name at its end"),
        ("events_queue_url", "http://127.0.0.1:10001/devstoreaccount1", "the queue's name at its end"),
    ],
)
def test_an_address_that_leads_nowhere_is_named_with_what_was_expected_and_without_secrets(
    al_toml: Path, setting: str, address: str, expected: str
) -> None:
    al_toml.write_text(f"[azure]\n{setting} = {address!r}\n")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith(f"azure.{setting} = '{address.partition('?')[0]}")
    assert expected in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:10000/devstoreaccount1/", "http://localhost:8080", "https://x.kusto.usgovcloudapi.net/"],
)
def test_emulators_other_clouds_and_a_slash_at_the_end_are_addresses(al_toml: Path, address: str) -> None:
    al_toml.write_text(f'[azure]\nkusto_uri = "{address}"\n')
    assert load_settings().azure.kusto_uri == address.rstrip("/")


def test_broken_toml_names_the_file(al_toml: Path) -> None:
    al_toml.write_text("[selection\n")
    with pytest.raises(SettingsError, match=r"al\.toml is not valid TOML"):
        load_settings()


def test_a_missing_file_that_was_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings()


def test_every_setting_is_listed_with_its_source(al_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    al_toml.write_text("[gate]\ntolerance = 0.01\n")
    monkeypatch.setenv("AL_SELECTION__BUDGET", "9")
    rows = {key: (value, source) for key, value, source in setting_sources(load_settings())}
    assert set(rows) == {key for key, _ in setting_keys()}
    assert rows["gate.tolerance"] == (0.01, str(al_toml))
    assert rows["selection.budget"] == (9, "environment AL_SELECTION__BUDGET")
    assert rows["selection.seed"] == (0, "default")


def test_every_setting_says_what_it_is_for() -> None:
    undocumented = [key for key, info in setting_keys() if not info.description]
    assert undocumented == []


def test_the_azure_profile_names_the_addresses_it_lacks(al_toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_PROFILE", "azure")
    with pytest.raises(SettingsError, match=r"azure\.kusto_uri, azure\.blob_account_url"):
        Platform(load_settings())
    monkeypatch.setenv("AL_AZURE__KUSTO_URI", "https://logs.westeurope.kusto.windows.net")
    with pytest.raises(SettingsError, match=r"needs azure\.blob_account_url$"):
        Platform(load_settings())


def test_the_azure_profile_opens_azure_and_the_local_one_does_not(al_toml: Path) -> None:
    al_toml.write_text(
        'profile = "azure"\n[azure]\nkusto_uri = "http://127.0.0.1:1"\n'
        'blob_account_url = "http://127.0.0.1:2/devstoreaccount1"\ncontainer = "images"\n'
    )
    platform = Platform(load_settings())
    assert platform.blobs.url("a") == "http://127.0.0.1:2/devstoreaccount1/images/a"
    opened = {type(port).__name__ for port in (platform.blobs, platform.ledgers, engine_of(platform.predictions))}
    assert opened == {"AzureBlobStore", "KustoLedgers", "KustoPredictionStore"}
    made_here = {type(port).__name__ for port in (platform.registry, platform.endpoint)}
    assert made_here == {"DirectoryModelRegistry", "LocalEndpoint"}, "without a workspace, on the container"
    local = Platform(load_settings(profile="local"))
    opened = {type(port).__name__ for port in (local.blobs, local.ledgers, engine_of(local.predictions))}
    assert opened == {"FsspecBlobStore", "DeltaLedgers", "DeltaPredictionStore"}


def test_a_workspace_keeps_models_and_endpoint_in_the_azure_profile_only(
    al_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    al_toml.write_text(
        'profile = "azure"\n[azure]\nkusto_uri = "http://127.0.0.1:1"\n'
        'blob_account_url = "http://127.0.0.1:2/devstoreaccount1"\n'
        '[azure_ml]\nsubscription = "s"\nresource_group = "g"\nworkspace = "w"\n'
    )
    platform = Platform(load_settings())
    assert type(platform.registry).__name__ == "AzureMLModelRegistry"
    assert type(platform.endpoint).__name__ == "AzureMLOnlineEndpoint"
    assert not answers_on_this_machine(platform), "`al ui` starts no scoring service, which would only refuse"
    local = Platform(load_settings(profile="local"))
    assert type(local.endpoint).__name__ == "LocalEndpoint"
    assert answers_on_this_machine(local)


def test_a_step_is_watched_for_minutes_where_failures_are_counted_by_the_minute() -> None:
    azure = {"kusto_uri": "https://c.kusto.windows.net", "blob_account_url": "https://a.blob.core.windows.net"}
    workspace = {"subscription": "s", "resource_group": "g", "workspace": "w"}
    assert Platform(load_settings()).profile.watch_seconds == 2
    assert Platform(load_settings(profile="azure", azure=azure)).profile.watch_seconds == 2
    managed = Platform(load_settings(profile="azure", azure=azure, azure_ml=workspace))
    assert managed.profile.watch_seconds == 300
    assert managed.settings.deployment.watch_seconds is None
