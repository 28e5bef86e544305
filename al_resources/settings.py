"""The one typed settings object: `al.toml`, overridden by `AL_*` environment variables.

`AL_SELECTION__BUDGET=100` sets `selection.budget`. `al doctor` prints every value with its source.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from al_core.training_settings import TrainingSettings
from al_resources.azure_data_settings import AzureDataSettings
from al_resources.azure_ml_settings import AzureMLSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model this instance improves."""

    name: str = Field(
        "classifier", pattern=r"^[a-z][a-z0-9_-]{1,62}$", description="name in registry, log and endpoint"
    )


class LabelingSettings(_Section):
    """Who labels, and what may come back."""

    project: Literal["manual", "oracle", "azure_ml"] = Field(
        "manual",
        description="manual: people export into labeling/exports; oracle: known labels; azure_ml: a project there",
    )
    classes: tuple[str, ...] = Field((), description="the classes people choose from; empty accepts whatever comes")
    new_classes: Literal["refuse", "grow"] = Field("refuse", description="what to do with a class that is not listed")
    resolve: Literal["latest", "majority"] = Field(
        "latest", description="which label counts where an image has several"
    )
    settle_seconds: float = Field(
        60,
        ge=0,
        description="an unreadable export that has not changed for so long is broken, not half-written",
    )
    oracle_labels: str = Field("", description="the oracle's answers: a JSON file {image id: label}")


class SelectionSettings(_Section):
    """Which images are worth a person's time, and how many of them."""

    strategy: str = Field("margin", description="a query strategy, see `al strategies`")
    strategy_settings: dict[str, float | str] = Field({}, description="of that strategy, like beta or base")
    pool_limit: int = Field(
        50_000, ge=1, description="candidates loaded for a strategy that needs embeddings or probabilities"
    )
    budget: int = Field(50, ge=1, description="images per round")
    control_share: float = Field(0.1, ge=0, le=1, description="share of the budget drawn at random: unbiased truth")
    initial_budget: int = Field(
        200, ge=1, description="images of the seed round, drawn at random before there is a model"
    )
    near_duplicate_distance: int = Field(
        4,
        ge=-1,
        le=128,
        description="hashes (of 128 bits) that differ in so few bits are one picture; -1: no check",
    )
    seed: int = Field(0, ge=0, description="of every random choice; each round adds its number")
    cron: str = Field("*/10 * * * *", description="when the schedule opens a round")
    min_new_predictions: int = Field(100, ge=0, description="no round before so many eligible images wait")
    worthwhile_gain: float = Field(
        0.005, ge=0, lt=1, description="accuracy a round has to bring to be worth its labels; decides the advice"
    )
    stop_when_advised: bool = Field(False, description="no new round once the advice is to stop")
    max_unlabeled: int = Field(500, ge=0, description="no new round while more candidates than this wait for a label")


class HoldoutSettings(_Section):
    """Held-out truth: which random images never enter training."""

    share: float = Field(
        0.5, gt=0, lt=1, description="of the random images (seed and control); decided by content hash"
    )
    validation_share: float = Field(0.15, ge=0, lt=1, description="of all other labeled images; for early stopping")


class GateSettings(_Section):
    """When a challenger may take the champion's place."""

    tolerance: float = Field(0.0, ge=0, lt=1, description="accuracy it may lose, at most, to pass")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="certainty demanded")


class DeploymentSettings(_Section):
    """How a model version takes the traffic."""

    endpoint: str = Field("classifier", pattern=r"^[a-z][a-z0-9-]{2,31}$", description="its name")
    traffic_steps: tuple[int, ...] = Field((10, 50, 100), description="percent of the traffic, step by step")
    watch_seconds: float = Field(2.0, ge=0, description="how long each step is watched")
    smoke_images: int = Field(
        8, ge=1, description="holdout images the new deployment must answer before it gets traffic"
    )


class ServingSettings(_Section):
    """The scoring service and its collector."""

    host: str = Field("127.0.0.1", description="where the service listens; loopback unless you say otherwise")
    port: int = Field(8808, ge=1, le=65535, description="of the scoring service")
    log_embeddings: bool = Field(False, description="log the penultimate layer with every prediction")
    max_image_bytes: int = Field(20_000_000, ge=1, description="larger requests are refused")
    max_image_pixels: int = Field(50_000_000, ge=1, description="images with more pixels are refused before decoding")
    flush_rows: int = Field(500, ge=1, description="the collector writes after so many predictions ...")
    flush_seconds: float = Field(2.0, gt=0, description="... or after so long, whichever is first")
    queue_rows: int = Field(20_000, ge=1, description="predictions waiting in memory; more go to the spool on disk")

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://{self.host}:{self.port}"


class SensorSettings(_Section):
    """How often the sensors look, and how much they take at once."""

    export_interval_seconds: int = Field(30, ge=1, description="seconds between two looks for exports")
    exports_per_tick: int = Field(20, ge=1, description="more wait for the next tick")


CONFIG_VARIABLE = "AL_CONFIG"
DEFAULT_CONFIG = "al.toml"


class SettingsError(Exception):
    """The settings cannot be used; the message names every bad key and the way out."""


def config_file() -> Path:
    """The settings file in use: `$AL_CONFIG`, or `al.toml` in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


class Settings(BaseSettings):
    """Everything that can be set. Order of precedence: environment, `al.toml`, default."""

    model_config = SettingsConfigDict(env_prefix="AL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    profile: Literal["local", "azure"] = Field("local", description="which adapters stand behind the ports")
    home: Path = Field(Path(".al"), description="where the local profile keeps everything; relative to al.toml")
    model: ModelSettings = ModelSettings()
    labeling: LabelingSettings = LabelingSettings()
    selection: SelectionSettings = SelectionSettings()
    holdout: HoldoutSettings = HoldoutSettings()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    serving: ServingSettings = ServingSettings()
    sensors: SensorSettings = SensorSettings()
    azure: AzureDataSettings = AzureDataSettings()
    azure_ml: AzureMLSettings = AzureMLSettings()

    @property
    def hears_events(self) -> bool:
        """Whether new exports announce themselves; otherwise the inbox is listed."""
        return self.profile == "azure" and bool(self.azure.events_queue_url)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the settings file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @field_validator("home")
    @classmethod
    def _home_is_relative_to_the_file(cls, home: Path) -> Path:
        return (config_file().parent / home.expanduser()).resolve()


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: a key is unknown (its nearest valid one is named) or a value does not fit.
    """
    file = config_file()
    if CONFIG_VARIABLE in os.environ and not file.is_file():
        raise SettingsError(f"{CONFIG_VARIABLE}={file}: there is no such file; write one or unset the variable")
    strangers = [name for name in os.environ if name.startswith("AL_") and not _is_known_variable(name)]
    if strangers:
        valid = [*Settings.model_fields, *(path for path, _ in setting_keys())]
        hints = [f"{name} is no setting{_nearest(_variable_key(name), valid, _variable)}" for name in sorted(strangers)]
        raise SettingsError("; ".join(hints))
    try:
        return Settings(**overrides)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from error


def setting_keys() -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf setting as (`selection.budget`, its field), in the order of definition."""
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for leaf, leaf_info in info.annotation.model_fields.items():
                yield f"{name}.{leaf}", leaf_info
        else:
            yield name, info


def setting_sources(settings: Settings) -> list[tuple[str, Any, str]]:
    """Every setting as (key, value, where it comes from), for people; secrets are not shown."""
    file = config_file()
    content = tomllib.loads(file.read_text()) if file.is_file() else {}
    environment = {name.upper() for name in os.environ}
    rows = []
    for key, _ in setting_keys():
        value: Any = settings
        in_file: Any = content
        for part in key.split("."):
            value = getattr(value, part)
            in_file = in_file.get(part) if isinstance(in_file, dict) else None
        if _variable(key) in environment:
            source = f"environment {_variable(key)}"
        else:
            source = str(file) if in_file is not None else "default"
        rows.append((key, str(value) if isinstance(value, SecretStr) else value, source))
    return rows


def _variable(key: str) -> str:
    return "AL_" + key.upper().replace(".", "__")


def _variable_key(name: str) -> str:
    return name.removeprefix("AL_").lower().replace("__", ".")


def _is_known_variable(name: str) -> bool:
    key = _variable_key(name)
    return name == CONFIG_VARIABLE or key in Settings.model_fields or any(key == path for path, _ in setting_keys())


def _known_names() -> list[str]:
    """Sections and leaves: a typo can be in either."""
    return [*Settings.model_fields, *(path for path, _ in setting_keys())]


def _explain(problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key} is no setting{_nearest(key, _known_names())}"
    return f"{key} = {_without_secret(problem['input'])!r}: {problem['msg'].removeprefix('Value error, ')}"


def _without_secret(value: Any) -> Any:
    """What follows the `?` of an address may open the storage: it is not for screens and logs."""
    return f"{value.partition('?')[0]}?..." if isinstance(value, str) and "://" in value and "?" in value else value


def _nearest(key: str, valid: list[str], show: Callable[[str], str] = str) -> str:
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"; did you mean {show(near[0])}?" if near else "; `al doctor` lists all settings"
