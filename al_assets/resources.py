"""The platform as a Dagster resource."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import dagster as dg
from dagster._config.pythonic_config.resource import ConfigurableResourceFactory
from pydantic import Field

from al_resources.format_versions import check_version
from al_resources.platform import Platform
from al_resources.settings import load_settings


@lru_cache(maxsize=16)
def this_process_platform(file: Path | None = None) -> Platform:
    """One platform per process and settings file: opening the stores again for every step and tick would be waste."""
    platform = Platform(load_settings(file))
    check_version(platform.blobs)
    return platform


class PlatformResource(ConfigurableResourceFactory[Platform]):
    """Every port, as the settings file and the AL_* environment set them up."""

    settings_file: str = Field(default="", description="the settings file of this loop; empty: $AL_CONFIG, or al.toml")

    def create_resource(self, context: dg.InitResourceContext) -> Platform:
        """The platform of this process."""
        return this_process_platform(Path(self.settings_file) if self.settings_file else None)
