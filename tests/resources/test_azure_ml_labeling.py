"""A labeling project of Azure ML: images found, progress read, exports fetched and asked for, each label once."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from azure_workspace import Workspace
from resource_adapters import coco
from test_image_store import picture as png

from al_assets.views import labeling_progress
from al_cli.console import console
from al_cli.status import print_progress
from al_core.records import SELECTIONS, table_of, utc_now
from al_loop.status import progress
from al_resources.azure.workspace import path_in_datastore
from al_resources.labeling import LabelingError
from al_resources.labeling.merge import Merge, merge_export, unmerged_exports
from al_resources.labeling.projects.azure_ml import ASKED, AzureMLLabeling
from al_resources.labeling.staging import stage_round
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, SettingsError, load_settings
from emulators.azure_ml import CONTAINER, ROOT, Fault
from emulators.azure_ml_labeling import Project
from sensors.labeling_exports import look_for_exports


def labeling_of(workspace: Workspace, **settings: Any) -> AzureMLLabeling:
    settings = {"labeling_job": "birds", "export_minutes": 0, **settings}
    adapter = AzureMLLabeling(
        workspace.platform.blobs,
        workspace.arm,
        workspace.settings.model_copy(update=settings),
        container=CONTAINER,
    )
    workspace.platform.labeling = adapter
    return adapter


def staged(workspace: Workspace, count: int = 3) -> list[str]:
    """A round in the project's folder; returns the paths of its images."""
    platform = workspace.platform
    rows = [
        {"round": 0, "image_id": stored.image_id, "image_uri": stored.uri, "rank": rank, "reason": "seed"}
        for rank, stored in enumerate(platform.images.put(png(number)) for number in range(count))
    ]
    chosen = table_of(SELECTIONS, rows)
    platform.ledgers.insert_new("selections", chosen, ["image_id"])
    stage_round(platform.blobs, platform.images, 0, platform.ledgers.read("selections"))
    return workspace.emulator.labeling.images_of(Project("labeling/input", ()))


def merged(workspace: Workspace, path: str) -> Merge:
    platform = workspace.platform
    return merge_export(platform.blobs, platform.ledgers, platform.images, LabelingSettings(), path)


def collected(labeling: AzureMLLabeling, looks: int = 6) -> list[str]:
    """What arrives in some looks: an export that was asked for takes a while."""
    return [path for _ in range(looks) for path in labeling.collect()]


def asked_for(workspace: Workspace) -> list[Any]:
    """The bodies of the requests for exports."""
    path = f"{ROOT}/labelingJobs/birds/exportLabels"
    return [body for verb, where, _, body in workspace.emulator.requests if (verb, where) == ("POST", path)]


# ---------------------------------------------------------------- the project


def test_settings_that_lack_the_project_say_so() -> None:
    with pytest.raises(SettingsError, match=r"needs profile = 'azure', azure_ml\.workspace and azure_ml\.labeling_job"):
        Platform(load_settings(labeling={"project": "azure_ml"}))


def test_a_staged_round_is_seen_and_its_progress_is_the_projects(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds", classes=("cat", "dog"))
    labeling = labeling_of(workspace)
    labeling.announce(0)
    project.labels[paths[0]] = "cat"
    project.skipped.add(paths[1])
    status = labeling.status(0)
    assert (status.total, status.labeled, status.skipped, status.project) == (3, 1, 1, "birds")
    assert str(status.refreshed_at) == "2026-01-01 10:00:00+00:00"
    facts = progress(workspace.platform)
    assert facts["labeling"]["skipped"] == 1
    assert labeling_progress(workspace.platform)["labeling project"].value["labeled"] == 1, "the assets' metadata"
    with console.capture() as printed:
        print_progress(facts)
    assert "1 of 3 images in project birds are labeled, 1 skipped" in printed.get().replace("\n", " ")


def test_the_manifest_beside_the_images_is_no_image_to_label(workspace: Workspace) -> None:
    assert len(staged(workspace)) == 3
    assert workspace.platform.blobs.exists("labeling/input/0000/_manifest.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annotation": "BoundingBox"}, "asks for Image BoundingBox, and a classifier is trained on one label"),
        ({"multi_select": True}, "asks for several labels per image"),
        ({"refresh": False}, "does not look for new images, so round 0 would never be seen there"),
    ],
)
def test_a_project_that_cannot_work_is_refused_when_a_round_is_staged(
    workspace: Workspace, options: dict[str, Any], message: str
) -> None:
    workspace.emulator.labeling.create("birds", **options)
    with pytest.raises(LabelingError, match=message):
        labeling_of(workspace).announce(0)


def test_a_project_that_is_not_there_or_not_allowed_says_which_setting_and_role(workspace: Workspace) -> None:
    staged(workspace)
    labeling = labeling_of(workspace)
    with pytest.raises(LabelingError, match=r"'birds' \(azure_ml.labeling_job\): 404"):
        labeling.announce(0)
    workspace.emulator.faults.append(Fault("GET", "labelingJobs", 403, times=9))
    assert "needs the role 'AzureML Data Scientist'" in progress(workspace.platform)["labeling"]["error"]


# ---------------------------------------------------------------- exports that people release


def test_what_people_export_comes_into_the_inbox_once_and_merges(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    labeling = labeling_of(workspace)
    assert labeling.collect() == []
    project.labels |= {paths[0]: "cat", paths[1]: "dog"}
    workspace.emulator.labeling.press_export("birds")
    (arrived,) = labeling.collect()
    assert unmerged_exports(workspace.platform.blobs, workspace.platform.ledgers) == [arrived]
    assert (merged(workspace, arrived).new_labels, asked_for(workspace)) == (2, [])
    assert labeling.collect() == []


def test_exports_are_cumulative_and_a_later_one_brings_only_what_is_new(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    labeling = labeling_of(workspace)
    new = []
    for path, label in zip(paths, ("cat", "dog", "cat"), strict=True):
        project.labels[path] = label
        workspace.emulator.labeling.press_export("birds")
        new += [merged(workspace, arrived).new_labels for arrived in labeling.collect()]
    assert new == [1, 1, 1]


def test_a_csv_is_left_alone(workspace: Workspace) -> None:
    workspace.platform.blobs.write("Labeling/export/csv/x/labels.csv", b"Url,Label")
    assert labeling_of(workspace).collect() == []


def tick(workspace: Workspace) -> dg.SensorResult | dg.SkipReason:
    with dg.instance_for_test() as instance:
        return look_for_exports(dg.build_sensor_context(instance), workspace.platform)


def test_one_look_of_the_sensor_fetches_an_export_and_asks_for_its_run(workspace: Workspace) -> None:
    paths = staged(workspace)
    workspace.emulator.labeling.create("birds").labels[paths[0]] = "cat"
    labeling_of(workspace)
    workspace.emulator.labeling.press_export("birds")
    found = tick(workspace)
    assert isinstance(found, dg.SensorResult)
    assert found.run_requests is not None
    assert [request.partition_key for request in found.run_requests] == ["0000"]


def test_a_tool_that_cannot_be_asked_stops_no_other_export(workspace: Workspace) -> None:
    paths = staged(workspace)
    labeling_of(workspace, request_exports=True)  # a project that is not there
    image = paths[0].rsplit("/", 1)[-1].removesuffix(".png")
    workspace.platform.blobs.write("labeling/exports/by-hand.json", coco({image: "cat"}))
    found = tick(workspace)
    assert isinstance(found, dg.SensorResult)
    assert found.run_requests is not None
    assert len(found.run_requests) == 1


# ---------------------------------------------------------------- exports that are asked for


@pytest.mark.parametrize("form", ["Coco", "Dataset"])
def test_an_export_is_asked_for_when_there_are_new_labels_and_fetched_when_it_is_there(
    workspace: Workspace, form: str
) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    labeling = labeling_of(workspace, request_exports=True, export_format=form)
    assert collected(labeling) == []
    assert asked_for(workspace) == []
    project.labels |= {paths[0]: "cat", paths[1]: "dog"}
    (arrived,) = collected(labeling)
    assert merged(workspace, arrived).new_labels == 2
    assert asked_for(workspace) == [{"format": form}]
    project.labels[paths[2]] = "dog"
    (arrived,) = collected(labeling)
    assert merged(workspace, arrived).new_labels == 1
    assert len(asked_for(workspace)) == 2


def test_another_process_goes_on_with_the_export_that_was_asked_for(workspace: Workspace) -> None:
    paths = staged(workspace)
    workspace.emulator.labeling.create("birds").labels[paths[0]] = "cat"
    assert labeling_of(workspace, request_exports=True).collect() == []  # and here the process was killed
    assert len(collected(labeling_of(workspace, request_exports=True))) == 1
    assert len(asked_for(workspace)) == 1


def test_exports_are_asked_for_no_more_often_than_the_settings_say(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    project.labels[paths[0]] = "cat"
    labeling = labeling_of(workspace, request_exports=True, export_minutes=30)
    assert len(collected(labeling)) == 1
    project.labels[paths[1]] = "cat"
    assert collected(labeling) == []
    blobs = workspace.platform.blobs
    asked = json.loads(blobs.read(ASKED)) | {"asked_at": str(utc_now() - timedelta(minutes=31))}
    blobs.write(ASKED, json.dumps(asked).encode())
    assert len(collected(labeling)) == 1


def test_a_changed_answer_changes_no_count_and_is_exported_within_a_day(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    project.labels[paths[0]] = "cat"
    labeling = labeling_of(workspace, request_exports=True)
    assert len(collected(labeling)) == 1
    project.labels[paths[0]] = "dog"
    assert collected(labeling) == []
    blobs = workspace.platform.blobs
    asked = json.loads(blobs.read(ASKED)) | {"asked_at": str(utc_now() - timedelta(days=2))}
    blobs.write(ASKED, json.dumps(asked).encode())
    assert len(collected(labeling)) == 1


def test_an_export_that_fails_is_told_and_another_one_is_asked_for(workspace: Workspace) -> None:
    paths = staged(workspace)
    project = workspace.emulator.labeling.create("birds")
    project.labels[paths[0]] = "cat"
    project.fails = "the storage is away"
    labeling = labeling_of(workspace, request_exports=True)
    with pytest.raises(LabelingError, match="the export of labeling project 'birds': 409"):
        collected(labeling)
    project.fails = ""
    assert len(collected(labeling)) == 1


def test_an_export_elsewhere_is_not_taken_for_ours(workspace: Workspace) -> None:
    paths = staged(workspace)
    workspace.emulator.labeling.create("birds").labels[paths[0]] = "cat"
    labeling = labeling_of(workspace, request_exports=True)
    labeling._container = "another"
    with pytest.raises(LabelingError, match="of container 'platform', and this platform reads 'another'"):
        collected(labeling)


def test_the_token_is_sent_to_the_resource_manager_alone(workspace: Workspace) -> None:
    workspace.emulator.labeling.create("birds")
    asked = {"location": "https://evil.example/x", "completed": 1}
    workspace.platform.blobs.write(ASKED, json.dumps(asked).encode())
    with pytest.raises(LabelingError, match=r"evil\.example/x is no address of https://management"):
        labeling_of(workspace, request_exports=True).collect()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "uri",
    [
        "AmlDatastore://store/a/b.jsonl",
        "azureml://datastores/store/paths/a/b.jsonl",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/store/paths/a/b.jsonl",
    ],
)
def test_both_generations_of_addresses_name_datastore_and_path(uri: str) -> None:
    assert path_in_datastore(uri) == ("store", "a/b.jsonl")


def test_what_is_no_address_in_a_datastore_is_refused() -> None:
    with pytest.raises(ValueError, match="is no address in a datastore"):
        path_in_datastore("https://a.blob.core.windows.net/c/x.jsonl")
