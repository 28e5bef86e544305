"""The platform as a Dagster resource."""

from functools import lru_cache

import dagster as dg

from al_resources.format_versions import check_version
from al_resources.platform import Platform
from al_resources.settings import load_settings


@lru_cache(maxsize=1)
def this_process_platform() -> Platform:
    """One platform per process: opening the stores again for every step and tick would be waste."""
    platform = Platform(load_settings())
    check_version(platform.blobs)
    return platform


@dg.resource(description="Every port, as al.toml and the AL_* environment set them up.")
def platform_resource(_: dg.InitResourceContext) -> Platform:
    """The platform of this process."""
    return this_process_platform()
