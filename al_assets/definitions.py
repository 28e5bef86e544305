"""Everything Dagster loads for one loop: `defs`."""

from __future__ import annotations

import dagster as dg

from al_assets.definitions_of_loops import loop_definitions
from al_assets.resources import PlatformResource
from al_resources.platform import Platform
from al_resources.settings import load_settings


def build_definitions(platform: Platform | None = None) -> dg.Definitions:
    """The code location of one loop; a test passes its own platform, everybody else gets the one of `al.toml`."""
    settings = platform.settings if platform else load_settings()
    resource = platform or PlatformResource()
    return dg.Definitions.merge(loop_definitions(settings, resource), dg.Definitions(executor=dg.in_process_executor))


defs = build_definitions()
