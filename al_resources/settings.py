"""The one typed settings object: `al.toml`, overridden by `AL_*` environment variables.

`AL_SELECTION__BUDGET=100` sets `selection.budget`. `al doctor` prints every value with its source.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from al_core.training_settings import TrainingSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model this instance improves."""

    name: str = Field("classifier", pattern=r"^[a-z][a-z0-9_-]{1,62}$", description="name in registry, log and endpoint")


class LabelingSettings(_Section):
    """Who labels, and what may come back."""

    project: Literal["manual", "oracle"] = Field("manual", description="manual: people export into labeling/exports; oracle: known labels answer")
    classes: tuple[str, ...] = Field((), description="the classes people choose from; empty accepts whatever comes")
    new_classes: Literal["refuse", "grow"] = Field("refuse", description="what to do with a class that is not listed")
    resolve: Literal["latest", "majority"] = Field("latest", description="which label counts where an image has several")
    settle_seconds: float = Field(60, ge=0, description="an unreadable export that has not changed for so long is broken, not half-written")
    oracle_labels: str = Field("", description="the oracle's answers: a JSON file {image id: label}")


class SelectionSettings(_Section):
    """Which images are worth a person's time, and how many of them."""

    strategy: str = Field("margin", description="a query strategy, see `al strategies`")
    budget: int = Field(50, ge=1, description="images per round")
    control_share: float = Field(0.1, ge=0, le=1, description="share of the budget drawn at random: unbiased truth")
    initial_budget: int = Field(200, ge=1, description="images of the seed round, drawn at random before there is a model")
    near_duplicate_distance: int = Field(4, ge=-1, le=128, description="hashes (128 bits) that differ in at most so many bits are one picture; -1 switches the check off")
    seed: int = Field(0, ge=0)
    cron: str = Field("*/10 * * * *", description="when the schedule opens a round")
    min_new_predictions: int = Field(100, ge=0, description="no round before so many eligible images wait")
    max_unlabeled: int = Field(500, ge=0, description="no new round while more candidates than this wait for a label")


class HoldoutSettings(_Section):
    """Held-out truth: which random images never enter training."""

    share: float = Field(0.5, gt=0, lt=1, description="of the random images (seed and control); decided by content hash")
    validation_share: float = Field(0.15, ge=0, lt=1, description="of all other labeled images; for early stopping")


class GateSettings(_Section):
    """When a challenger may take the champion's place."""

    tolerance: float = Field(0.0, ge=0, lt=1, description="accuracy it may lose, at most, to pass")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="certainty demanded")


class DeploymentSettings(_Section):
    """How a model version takes the traffic."""

    endpoint: str = Field("classifier", pattern=r"^[a-z][a-z0-9-]{2,31}$")
    traffic_steps: tuple[int, ...] = Field((10, 50, 100), description="percent of the traffic, step by step")
    watch_seconds: float = Field(2.0, ge=0, description="how long each step is watched")
    smoke_images: int = Field(8, ge=1, description="holdout images the new deployment must answer before it gets traffic")


class ServingSettings(_Section):
    """The scoring service and its collector."""

    host: str = "127.0.0.1"
    port: int = Field(8808, ge=0, le=65535)
    log_embeddings: bool = False
    max_image_bytes: int = Field(20_000_000, ge=1)
    max_image_pixels: int = Field(50_000_000, ge=1)
    flush_rows: int = Field(500, ge=1, description="the collector writes after so many predictions ...")
    flush_seconds: float = Field(2.0, gt=0, description="... or after so long, whichever is first")
    queue_rows: int = Field(20_000, ge=1, description="predictions waiting in memory; more go to the spool on disk")


class SensorSettings(_Section):
    """How often the sensors look, and how much they take at once."""

    export_interval_seconds: int = Field(30, ge=1)
    exports_per_tick: int = Field(20, ge=1)


SECTIONS: dict[str, type[BaseModel]] = {}
CONFIG_FILE_VARIABLE = "AL_CONFIG"


class Settings(BaseSettings):
    """Everything that can be set. Order of precedence: environment, `al.toml`, default."""

    model_config = SettingsConfigDict(
        env_prefix="AL_", env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True
    )

    profile: Literal["local", "azure"] = Field("local", description="which adapters stand behind the ports")
    home: Path = Field(Path(".al"), description="where the local profile keeps everything")
    model: ModelSettings = ModelSettings()
    labeling: LabelingSettings = LabelingSettings()
    selection: SelectionSettings = SelectionSettings()
    holdout: HoldoutSettings = HoldoutSettings()
    training: TrainingSettings = TrainingSettings()
    gate: GateSettings = GateSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    serving: ServingSettings = ServingSettings()
    sensors: SensorSettings = SensorSettings()
