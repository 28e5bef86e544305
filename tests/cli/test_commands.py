"""The command line: help that teaches, errors in one line, facts for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from al_cli.main import COMMANDS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project's settings file."""
    file = tmp_path / "al.toml"
    file.write_text('home = "data"\n')
    return file


def test_help_names_every_command(al: Callable[..., Any]) -> None:
    shown = al("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name}" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command: str) -> None:
    from click.testing import CliRunner

    from al_cli.main import cli

    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 5


def test_a_typo_in_the_settings_is_one_line_and_exit_code_2(project: Path, al: Callable[..., Any]) -> None:
    project.write_text("[selection]\nbudgte = 3\n")
    done = al("status", config=project)
    assert done.returncode == 2
    assert done.stderr == "Error: selection.budgte is no setting; did you mean selection.budget?\n"


def test_doctor_prints_every_setting_with_its_source(project: Path, al: Callable[..., Any]) -> None:
    done = al("doctor", "--json", config=project)
    found = json.loads(done.stdout)
    assert done.returncode == 0, found["checks"]
    sources = {row["key"]: row["source"] for row in found["settings"]}
    assert sources["home"] == str(project)
    assert sources["selection.budget"] == "default"


def test_doctor_fails_where_something_is_missing(project: Path, al: Callable[..., Any]) -> None:
    project.write_text('home = "data"\n[labeling]\nproject = "oracle"\noracle_labels = "nowhere.json"\n')
    done = al("doctor", "--json", config=project)
    assert done.returncode == 1
    assert [check["name"] for check in json.loads(done.stdout)["checks"] if not check["ok"]] == ["labeling"]


def test_status_of_an_empty_project_is_no_error(project: Path, al: Callable[..., Any]) -> None:
    found = json.loads(al("status", "--json", config=project).stdout)
    assert found["champion"] is None
    assert found["rounds"] == []


def test_init_writes_a_project_that_doctor_likes_and_overwrites_nothing(tmp_path: Path, al: Callable[..., Any]) -> None:
    home = tmp_path / "cats"
    assert al("init", str(home), "--class", "cat", "--class", "d'og\"").returncode == 0
    assert al("doctor", config=home / "al.toml").returncode == 0
    (home / "al.toml").write_text("# mine\n")
    al("init", str(home))
    assert (home / "al.toml").read_text() == "# mine\n"
    assert (home / "dagster.yaml").is_file()
    assert (home / "workspace.yaml").is_file()


@pytest.mark.parametrize("name", ["", " ", "caf\udce9", "a\x01b"])
def test_what_is_no_name_of_a_class_is_refused_before_anything_is_written(
    tmp_path: Path, al: Callable[..., Any], name: str
) -> None:
    done = al("init", str(tmp_path / "cats"), "--class", "cat", "--class", name)
    assert (done.returncode, "names no class; expected text" in done.stderr) == (2, True)
    assert not (tmp_path / "cats").exists()


def test_classes_that_may_be_one_are_told_and_commands_can_be_copied(tmp_path: Path, al: Callable[..., Any]) -> None:
    home = tmp_path / "my cats"
    said = al("init", str(home), "--class", "Cat", "--class", "cat ", "--class", "e\u0301", "--class", "\u00e9").stdout
    assert "'Cat' and 'cat' differ in case or spacing only" in said
    assert f"al ui --home '{home}'" in said
    assert 'classes = ["Cat", "cat", "\u00e9"]' in (home / "al.toml").read_text(encoding="utf-8")


def test_ingest_stores_by_content_and_records_what_is_no_image(
    project: Path, tmp_path: Path, png: bytes, al: Callable[..., Any]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(png)
    (folder / "the same under another name.png").write_bytes(png)
    (folder / "broken.jpg").write_bytes(png[:60])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a-checkpoint.png").write_bytes(png + b"1")
    found = json.loads(al("ingest", str(folder), "--json", config=project).stdout)
    assert (found["added"], found["known"], found["rejected"]) == (1, 1, 2)
    assert {Path(name).name for name in found["reasons"]} == {"broken.jpg", "empty.png"}
    assert found["passed_over"] == {".txt": 1, "hidden": 1}
    assert "broken.jpg" in al("ingest", str(folder), config=project).stdout
    status = json.loads(al("status", "--json", config=project).stdout)
    assert (status["images"], status["rejected_images"]) == (1, 2)


def test_a_folder_without_images_is_named(project: Path, tmp_path: Path, al: Callable[..., Any]) -> None:
    (tmp_path / "nothing").mkdir()
    done = al("ingest", str(tmp_path / "nothing"), config=project)
    assert done.returncode == 1
    assert "holds no images" in done.stderr


def test_scoring_without_a_model_says_what_to_do(project: Path, tmp_path: Path, al: Callable[..., Any]) -> None:
    done = al("score", str(tmp_path), config=project)
    assert done.returncode == 1
    assert "no model is deployed yet" in done.stderr


def test_the_demo_does_not_replace_a_folder_that_is_not_its_own(tmp_path: Path, al: Callable[..., Any]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("...")
    done = al("demo", "--home", str(tmp_path / "mine"))
    assert done.returncode == 1
    assert "holds something else" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_an_unknown_strategy_is_named_with_the_nearest(tmp_path: Path, al: Callable[..., Any]) -> None:
    done = al("demo", "--home", str(tmp_path / "demo"), "--strategy", "margni")
    assert done.returncode == 2
    assert "did you mean 'margin'" in done.stderr


def test_strategies_are_listed_with_their_needs(al: Callable[..., Any]) -> None:
    found = {row["name"]: row for row in json.loads(al("strategies", "--json").stdout)}
    assert found["badge"]["needs"] == ["embedding", "probs"]
    assert all(row["cost"] for row in found.values())


def test_init_takes_a_pretrained_encoder_and_says_what_it_costs(tmp_path: Path, al: Callable[..., Any]) -> None:
    pytest.importorskip("timm")
    home = tmp_path / "new"
    done = al("init", str(home), "--encoder", "timm:test_vit.r160_in1k")
    assert done.returncode == 0, done.stderr
    assert "pictures of 160 pixels, embeddings of 64 values" in " ".join(done.stdout.split())
    written = {
        row["key"]: row["value"]
        for row in json.loads(al("doctor", "--json", config=home / "al.toml").stdout)["settings"]
    }
    assert written["training.architecture"] == "timm:test_vit.r160_in1k"
    assert written["training.frozen"] is written["serving.log_embeddings"] is True
    assert written["selection.strategy"] == "auto"
    refused = al("init", str(tmp_path / "other"), "--encoder", "timm:test_vti")
    assert refused.returncode != 0
    assert "did you mean" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_encoders_are_listed_with_their_speed_and_what_is_missing(al: Callable[..., Any]) -> None:
    small, other = json.loads(al("encoders", "small_cnn", "timm:resnet81", "--json").stdout)
    assert (small["pixels"], small["width"], small["problem"]) == (32, 256, None)
    assert small["per_second"] > 1
    assert "resnet81" in other["problem"] or "pip install" in other["problem"]


def test_select_shows_the_seed_round_of_a_new_project_and_writes_nothing(
    project: Path, tmp_path: Path, al: Callable[..., Any]
) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        Image.effect_noise((16, 16), 60).save(tmp_path / "pictures" / f"{number}.png")
    al("ingest", str(tmp_path / "pictures"), config=project)
    sheet = tmp_path / "sheet.png"
    found = json.loads(al("select", "--dry-run", "--json", "--sheet", str(sheet), config=project).stdout)
    assert {image["reason"] for image in found["images"]} == {"seed"}
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert json.loads(al("status", "--json", config=project).stdout)["rounds"] == []
