"""All definitions as one JSON file: a change of what Dagster shows is seen in a diff, and never by accident.

`UPDATE_SNAPSHOTS=1 pytest tests/assets/test_definitions_snapshot.py` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from al_assets.definitions import build_definitions
from al_assets.definitions_of_loops import loop_definitions
from al_resources.platform import Platform
from al_resources.settings import Settings

SNAPSHOTS = Path(__file__).parent / "snapshots"


def as_json(definitions: dg.Definitions) -> dict[str, Any]:
    """What people and daemons see of a code location."""
    graph, repository = definitions.resolve_asset_graph(), definitions.get_repository_def()
    return {
        "assets": {key.to_user_string(): asset(graph, key) for key in sorted(graph.get_all_asset_keys())},
        "checks": {
            f"{key.asset_key.to_user_string()}.{key.name}": {
                "blocking": graph.get(key).blocking,
                "partitions": getattr(graph.get(key).partitions_def, "name", None),
                "description": graph.get(key).description,
            }
            for key in sorted(graph.asset_check_keys, key=str)
        },
        "jobs": {job.name: job_facts(job) for job in sorted(repository.get_all_jobs(), key=lambda job: job.name)},
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "job": schedule.job_name,
                "status": schedule.default_status.value,
                "resources": sorted(schedule.required_resource_keys),
            }
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: {
                "jobs": sorted(target.job_name for target in sensor.targets if target.has_job_def or target.job_name),
                "seconds": sensor.minimum_interval_seconds,
                "status": sensor.default_status.value,
                "resources": sorted(sensor.required_resource_keys),
            }
            for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name)
        },
        "resources": sorted(definitions.resources or {}),
    }


def asset(graph: Any, key: dg.AssetKey) -> dict[str, Any]:
    node = graph.get(key)
    return {
        "after": sorted(parent.to_user_string() for parent in node.parent_keys),
        "group": node.group_name,
        "kinds": sorted(node.kinds),
        "tags": {name: value for name, value in sorted(node.tags.items()) if not name.startswith("dagster/kind/")},
        "owners": list(node.owners),
        "partitions": getattr(node.partitions_def, "name", None),
        "pools": sorted(node.pools or []),
        "code version": node.code_version,
        "description": (node.description or "").splitlines()[0],
        "columns": [column.name for column in node.metadata["dagster/column_schema"].columns]
        if "dagster/column_schema" in node.metadata
        else [],
        "code": [Path(place.file_path).name for place in node.metadata["dagster/code_references"].code_references],
    }


def job_facts(job: dg.JobDefinition) -> dict[str, Any]:
    nodes = {node.name: node for node in job.nodes}
    return {
        "steps": sorted(nodes),
        "pools": sorted({pool for node in nodes.values() for pool in node.definition.pools}),
        "tags": {name: value for name, value in sorted(job.tags.items()) if name.startswith("al/")},
        "description": job.description,
    }


@pytest.mark.parametrize("name", ["the_loop", "one_of_several"])
def test_the_definitions_are_the_ones_on_record(name: str, tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    found = (
        build_definitions(platform)
        if name == "the_loop"
        else loop_definitions(platform.settings, platform, ("shop", "cats"))
    )
    file = SNAPSHOTS / f"{name}.json"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        file.write_text(json.dumps(as_json(found), indent=1) + "\n")
    assert json.loads(json.dumps(as_json(found))) == json.loads(file.read_text()), "UPDATE_SNAPSHOTS=1 renews it"
