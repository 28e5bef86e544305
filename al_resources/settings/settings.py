"""The one typed settings object: `al.toml`, overridden by `AL_*` environment variables.

`AL_SELECTION__BUDGET=100` sets `selection.budget`. `al doctor` prints every value with its source.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from al_core.errors import ActiveLearningError
from al_core.learning.settings import TrainingSettings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings
from al_resources.settings.label_studio import LabelStudioSettings
from al_resources.settings.labeling_page import LabelingPageSettings
from al_resources.settings.names import unknown_names
from al_resources.settings.sections import (
    AlertSettings,
    DagsterSettings,
    DeploymentSettings,
    GateSettings,
    HoldoutSettings,
    LabelingSettings,
    ModelSettings,
    MonitoringSettings,
    SelectionSettings,
    SensorSettings,
    ServingSettings,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


CONFIG_VARIABLE = "AL_CONFIG"
DEFAULT_CONFIG = "al.toml"
_file_to_load: ContextVar[Path | None] = ContextVar("settings file", default=None)  # of one loop among several


class SettingsError(ActiveLearningError):
    """The settings cannot be used; the message names every bad key and the way out."""


def config_file() -> Path:
    """The settings file in use: the one that is being loaded, else `$AL_CONFIG`, else `al.toml` in this directory."""
    return _file_to_load.get() or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


class Settings(BaseSettings):
    """Everything that can be set. Order of precedence: environment, `al.toml`, default."""

    model_config = SettingsConfigDict(env_prefix="AL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    profile: Literal["local", "azure"] = Field("local", description="which adapters stand behind the ports")
    home: Path = Field(Path(".al"), description="where the local profile keeps everything; relative to al.toml")
    model: ModelSettings = ModelSettings()
    labeling: LabelingSettings = LabelingSettings()
    labeling_page: LabelingPageSettings = LabelingPageSettings()
    label_studio: LabelStudioSettings = LabelStudioSettings()
    selection: SelectionSettings = SelectionSettings()
    holdout: HoldoutSettings = HoldoutSettings()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    serving: ServingSettings = ServingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    sensors: SensorSettings = SensorSettings()
    alerts: AlertSettings = AlertSettings()
    dagster: DagsterSettings = DagsterSettings()
    azure: AzureDataSettings = AzureDataSettings()
    azure_ml: AzureMLSettings = AzureMLSettings()

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


def load_settings(named: Path | None = None, **overrides: Any) -> Settings:
    """The settings of this process, or of the file that is `named`: of one loop among several in a process.

    Raises:
        SettingsError: a key is unknown (its nearest valid one is named), a value does not fit, or a strategy, an
            encoder or a trainer is named that nobody knows.
    """
    token = _file_to_load.set(named)
    try:
        return _load(**overrides)
    finally:
        _file_to_load.reset(token)


def _load(**overrides: Any) -> Settings:
    file = config_file()
    if _file_to_load.get() is not None and not file.is_file():
        raise SettingsError(f"{file}: there is no such settings file; write one, or mend the path that names it")
    if CONFIG_VARIABLE in os.environ and not file.is_file():
        raise SettingsError(f"{CONFIG_VARIABLE}={file}: there is no such file; write one or unset the variable")
    strangers = [name for name in os.environ if name.startswith("AL_") and not _is_known_variable(name)]
    if strangers:
        valid = [*Settings.model_fields, *(path for path, _ in setting_keys())]
        hints = [f"{name} is no setting{_nearest(_variable_key(name), valid, _variable)}" for name in sorted(strangers)]
        raise SettingsError("; ".join(hints))
    try:
        settings = Settings(**overrides)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from error
    if unknown := list(unknown_names(settings)):
        raise SettingsError("\n".join(unknown))
    return settings


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
    told = "..." if key in _secrets() else repr(_without_secret(problem["input"]))
    return f"{key} = {told}: {problem['msg'].removeprefix('Value error, ')}"


def _secrets() -> set[str]:
    return {key for key, field in setting_keys() if field.annotation is SecretStr}


def _without_secret(value: Any) -> Any:
    """What follows the `?` of an address may open the storage: it is not for screens and logs."""
    return f"{value.partition('?')[0]}?..." if isinstance(value, str) and "://" in value and "?" in value else value


def _nearest(key: str, valid: list[str], show: Callable[[str], str] = str) -> str:
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"; did you mean {show(near[0])}?" if near else "; `al doctor` lists all settings"
