"""`al classes`: what there is, and renaming and merging as the labeling page does them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from al_cli.main import cli
from al_core.answers import standing
from al_core.records import utc_now
from al_loop.decisions import this_person
from al_loop.labeling import merge_exports
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.class_changes import classes_in_force, make_class_change, plan_class_change
from al_resources.labeling.class_list import CHANGES, ClassChangeRefused
from al_resources.labeling.inbox import INBOX
from al_resources.platform import Platform
from al_resources.settings import load_settings

IDS = [f"{number:032x}" for number in range(5)]


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, labeling: str) -> Platform:
    (folder / "al.toml").write_text(f'home = "data"\n[labeling]\nnew_classes = "refuse"\n{labeling}')
    monkeypatch.setenv("AL_CONFIG", str(folder / "al.toml"))
    platform = Platform(load_settings())
    monkeypatch.setattr(type(platform.images), "exists", lambda self, image_id: image_id in IDS)
    return platform


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Two cats and a dog labeled, of the classes cat, dog and fox."""
    found = project(tmp_path, monkeypatch, 'classes = ["cat", "dog", "fox"]\n[labeling.aliases]\nKatze = "cat"\n')
    bring(found, {IDS[0]: "cat", IDS[1]: "Katze", IDS[2]: "dog"})
    return found


def bring(platform: Platform, labels: dict[str, str]) -> None:
    rows = "".join(json.dumps({"image_url": image_id, "label": label}) + "\n" for image_id, label in labels.items())
    platform.blobs.write(f"{INBOX}/{len(list(platform.blobs.list(INBOX)))}.jsonl", rows.encode())
    merge_exports(platform, "", print)


def al(*words: str) -> Any:
    done = CliRunner().invoke(cli, ["classes", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def counts() -> dict[str, int]:
    return {one["class"]: one["images"] for one in al()}


def said(platform: Platform) -> list[tuple[str, str]]:
    return sorted(standing(platform.ledgers.read("labels")).select("image_id", "label").iter_rows())


def test_the_classes_are_listed_with_counts_and_other_names(platform: Platform) -> None:
    cat, dog, fox = al()
    assert (cat["class"], cat["images"], cat["aliases"], cat["formerly"]) == ("cat", 2, ["Katze"], [])
    assert (dog["images"], fox["images"]) == (1, 0)
    text = CliRunner().invoke(cli, ["classes"]).output.splitlines()
    assert text == ["cat: 2 images, also called Katze", "dog: 1 images", "fox: 0 images"]


def test_what_a_change_does_is_told_first_and_a_dry_run_writes_nothing(platform: Platform) -> None:
    answer = {"round": 0, "annotator": "ada", "kind": "label", "at": utc_now()}
    for number, label in enumerate(["cat", "dog"]):
        event = f"{number:08x}-0000-0000-0000-000000000000"
        AnswerLog(platform.blobs, 0).append(Answer(event_id=event, image_id=IDS[number], label=label, **answer))
    facts = al("rename", "cat", "kitten", "--dry-run")
    assert (facts["labels"], facts["labels_on_the_page"], facts["by"]) == (2, 1, this_person())
    assert facts["classes"] == ["kitten", "dog", "fox"]
    assert list(platform.blobs.list(CHANGES)) == []
    assert counts() == {"cat": 2, "dog": 1, "fox": 0}


def test_labels_that_stand_follow_a_rename_and_later_exports_may_use_both_names(platform: Platform) -> None:
    facts = al("rename", "cat", "kitten")
    assert counts() == {"kitten": 2, "dog": 1, "fox": 0}, "before the sensor has looked, too"
    merge_exports(platform, "", print)
    assert said(platform) == [(IDS[0], "kitten"), (IDS[1], "kitten"), (IDS[2], "dog")]
    bring(platform, {IDS[3]: "cat", IDS[4]: "kitten"})
    assert counts() == {"kitten": 4, "dog": 1, "fox": 0}
    assert al()[0]["formerly"] == ["cat"]
    assert al()[0]["aliases"] == ["Katze"]
    (record,) = (json.loads(platform.blobs.read(blob.path)) for blob in platform.blobs.list(CHANGES))
    assert (record["kind"], record["name"], record["into"], record["annotator"]) == (
        "rename", "cat", "kitten", this_person())  # fmt: skip
    assert facts["delivered"].startswith(INBOX)


def test_two_classes_become_one(platform: Platform) -> None:
    al("merge", "dog", "cat")
    merge_exports(platform, "", print)
    assert counts() == {"cat": 3, "fox": 0}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["rename", "cow", "ox"], "there is no class 'cow'"),
        (["rename", "cat", "dog"], "class 'dog' is there already: merge the two"),
        (["merge", "cat", "cow"], "class 'cow' is not there: rename instead"),
        (["rename", "cat", " cat "], "needs another name to become"),
        (["rename", "cat", " "], "needs another name to become"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_what_would(
    platform: Platform, words: list[str], reason: str
) -> None:
    done = CliRunner().invoke(cli, ["classes", *words])
    assert isinstance(done.exception, ClassChangeRefused)
    assert reason in str(done.exception)
    assert list(platform.blobs.list(CHANGES)) == []


def test_a_rename_that_was_interrupted_before_its_labels_followed_is_made_whole_by_the_same_command(
    platform: Platform,
) -> None:
    known = (platform.blobs, platform.ledgers, platform.settings.labeling)
    planned = plan_class_change(*known, "rename", "cat", "kitten", "ada")
    path = make_class_change(platform.blobs, planned).path
    assert path is not None
    platform.blobs.delete(path)
    al("rename", "cat", "kitten")
    merge_exports(platform, "", print)
    assert said(platform)[0] == (IDS[0], "kitten")
    assert len(list(platform.blobs.list(CHANGES))) == 1


def test_settings_that_follow_a_rename_leave_the_former_name_readable(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    al("rename", "cat", "kitten")
    merge_exports(platform, "", print)
    platform = project(tmp_path, monkeypatch, 'classes = ["kitten", "dog", "fox"]\n')
    bring(platform, {IDS[3]: "cat"})
    assert counts() == {"kitten": 3, "dog": 1, "fox": 0}


def test_where_the_settings_name_no_classes_those_labeled_with_are_renamed_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = project(tmp_path, monkeypatch, "")
    bring(platform, {IDS[0]: "cat", IDS[1]: "dog"})
    al("rename", "cat", "kitten")
    merge_exports(platform, "", print)
    bring(platform, {IDS[2]: "cat"})
    assert counts() == {"dog": 1, "kitten": 2}
    known = (platform.blobs, platform.ledgers, platform.settings.labeling)
    assert classes_in_force(*known).current("cat") == "kitten"
