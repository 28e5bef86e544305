"""Rounds on digits without Dagster: duels, verdicts that can be taken again, what people decide about who serves."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from al_cli.digits import digit_pngs
from al_cli.status import rounds_table
from al_core.dataset import JUDGES
from al_core.errors import GiveUp, InvalidInput
from al_core.judging.duels import PAIRING
from al_core.judging.gate import Costs
from al_core.learning.settings import TrainingSettings
from al_core.records import LABELS, SELECTIONS, GateVerdict, table_of, utc_now
from al_loop import decisions, operating
from al_loop.deploying import Decision, decide, deploy
from al_loop.judging import judge_pair, pairing_of, verdict_on
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.selecting import Wishes, choose, stage
from al_loop.status import progress
from al_loop.trace import trace
from al_loop.training import train_challenger
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import (
    DeploymentSettings,
    GateSettings,
    HoldoutSettings,
    LabelingSettings,
    SelectionSettings,
    Settings,
)
from al_serving.batch import NamedFile, score_files
from al_serving.collector import Collector
from al_serving.scoring import Scorer

PNGS = digit_pngs()[:600]


def quiet(line: str) -> None:
    """Nobody listens."""


def play(platform: Platform, round_: int, *, deploy_it: bool = True) -> Decision:
    """A round as the assets play it: selection, labels, dataset, training, decision."""
    chosen, _ = choose(platform, round_, Wishes(), quiet)
    stage(platform, round_, chosen, print)
    assert isinstance(platform.labeling, OracleLabeling)
    platform.labeling.answer(round_)
    merge_exports(platform, "", quiet)
    manifest = train_challenger(platform, publish_dataset(platform, round_), run_id="run", log=quiet)
    decision = decide(platform, manifest)
    if decision.deploy is not None and deploy_it:
        deploy(platform, decision.deploy, run_id="run", log=quiet)
    decisions.of_the_loop(platform, decision, manifest, "run")
    return decision


def score(platform: Platform) -> None:
    """All digits are logged by the version that serves."""
    version = platform.endpoint.state().serving_version
    assert version is not None
    with Collector.of(platform) as collector:
        files = [NamedFile(str(number), lambda png=png: png) for number, (png, _) in enumerate(PNGS)]
        score_files(Scorer.of(platform, platform.registry.fetch(version), collector), files, collector)
        assert collector.flush()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Three rounds after the seed; round 2 was held."""
    home: Path = tmp_path_factory.mktemp("duels")
    truth = home / "truth.json"
    platform = Platform(
        Settings(
            home=home,
            labeling=LabelingSettings(project="oracle", oracle_labels=str(truth), classes=tuple("0123456789")),
            selection=SelectionSettings(initial_budget=100, budget=30),
            holdout=HoldoutSettings(reserve=0.5, share=0.3, validation_share=0.1),
            training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=6),
            gate=GateSettings(duel_labels=15),
            deployment=DeploymentSettings(watch_seconds=0),
        )
    )
    truth.write_text(json.dumps({platform.images.put(png).image_id: label for png, label in PNGS}))
    play(platform, 0)
    score(platform)
    play(platform, 1)
    operating.hold(platform, reason="a fair is on", person="ann")
    play(platform, 2)
    operating.release(platform, reason="the fair is over", person="ann")
    play(platform, 3)
    return platform


def test_a_batch_holds_images_on_which_two_models_disagree_while_their_verdict_is_open(played: Platform) -> None:
    duels = played.ledgers.read("selections").filter(reason="duel")
    assert duels.height > 0
    assert duels.filter(pl.col("champion_answer") == pl.col("challenger_answer")).is_empty()
    assert duels["propensity"].is_between(0, 1, closed="right").all()
    assert (duels["model_version"] > duels["against_version"]).all()
    assert duels.group_by("round").len()["len"].max() <= 15


def test_a_judge_never_teaches_and_no_strategy_chose_a_reserved_image(played: Platform) -> None:
    reserve = played.settings.holdout.judges
    selections = played.ledgers.read("selections")
    assert not reserve.among(selections.filter(reason="strategy")["image_id"].to_list())
    dataset = played.datasets.latest()
    assert dataset is not None
    judges = dataset.rows.filter(pl.col("split").is_in(JUDGES))
    assert judges.filter(split="duel").height > 0
    assert reserve.among(judges["image_id"].to_list()) == judges["image_id"].to_list()
    taught = dataset.rows.filter(pl.col("split").is_in(["train", "validation"]))
    assert set(taught["reason"]) <= {"strategy", "seed"}


def test_a_verdict_that_is_taken_again_from_what_is_stored_is_equal(played: Platform) -> None:
    rows = played.ledgers.read("decisions").filter(pl.col("verdict").is_not_null()).to_dicts()
    newest = [row for row in rows if row["round"] == 3]
    assert newest
    for row in newest:
        manifest = played.registry.manifest(row["model_version"])
        assert verdict_on(played, manifest, row["against_version"]) == GateVerdict.model_validate_json(row["verdict"])


def test_the_answers_of_both_models_to_the_reserved_images_are_stored(played: Platform) -> None:
    newest = played.registry.manifest(played.registry.versions()[-1])
    assert newest.gate is not None
    champion = newest.gate.champion_version
    assert champion is not None
    pairing = pairing_of(played, newest, champion)
    assert pairing["image_id"].is_unique().all()
    assert len(played.settings.holdout.judges.among(pairing["image_id"].to_list())) == pairing.height
    assert pairing.height > 150


def test_a_held_loop_selects_and_trains_and_deploys_nothing(played: Platform) -> None:
    during = played.ledgers.read("decisions").filter(round=2, person=decisions.LOOP)
    assert set(during["action"]) == {"keep"}
    assert played.ledgers.read("selections").filter(round=2).height == 30
    assert 2 in {played.registry.manifest(version).round for version in played.registry.versions()}


def test_every_decision_is_on_record_with_who_why_and_when(played: Platform) -> None:
    rows = played.ledgers.read("decisions")
    people = rows.filter(pl.col("person") != decisions.LOOP)
    assert people.select("action", "person", "reason").rows() == [
        ("hold", "ann", "a fair is on"),
        ("release", "ann", "the fair is over"),
    ]
    assert rows["decided_at"].is_not_null().all()
    facts = progress(played)["rounds"]
    assert [row["round"] for row in facts] == [0, 1, 2, 3]
    assert sum(sum(row["paid"].values()) for row in facts) == 190
    assert {row["outcome"] for row in facts} <= {"promoted", "passed", "open", "worse", "held"}
    assert all(row["serves"] is not None for row in facts)


def test_the_table_of_rounds_tells_what_labels_were_paid_for(played: Platform) -> None:
    rounds = progress(played)["rounds"]
    paid = str(rounds_table(rounds).caption).splitlines()[0]
    assert paid.startswith("labels paid: 100 seed, ")
    assert all(f" {reason}" in paid for reason in ("strategy", "control", "duel"))
    assert sum(int(number) for number in re.findall(r"\d+", paid)) == sum(row["labeled"] for row in rounds)


def test_what_cannot_be_is_refused_with_the_way_out(played: Platform) -> None:
    serving = played.endpoint.state().serving_version
    assert serving is not None
    with pytest.raises(InvalidInput, match="v99 is not in the registry; there are: v1, v2"):
        operating.promote(played, 99, reason="why not", person="ann", log=quiet)
    with pytest.raises(InvalidInput, match="serves already"):
        operating.promote(played, serving, reason="why not", person="ann", log=quiet)
    with pytest.raises(InvalidInput, match="needs a reason"):
        operating.hold(played, reason=" ", person="ann")
    assert operating.release(played, reason="again", person="ann") == "nobody holds it"


def test_who_is_promoted_and_rolled_back_serves_and_what_was_left_does_not_return_by_itself(played: Platform) -> None:
    before = played.endpoint.state().serving_version
    newest = played.registry.manifest(played.registry.versions()[-1])
    other = newest.version if newest.version != before else newest.version - 1
    operating.promote(played, other, reason="a customer asked for it", person="ann", log=quiet)
    assert played.endpoint.state().serving_version == other
    with pytest.raises(InvalidInput, match="was never deployed"):
        operating.rollback(played, 99, reason="worse on Mondays", person="bob", log=quiet)
    operating.rollback(played, reason="worse on Mondays", person="bob", log=quiet)
    assert played.endpoint.state().serving_version == before
    assert other in decisions.taken_back(played)
    assert other not in {one.version for one in decisions.challengers(played, 0)}
    last = trace(played, f"v{other}")["decisions"]
    assert [row["action"] for row in last if row["person"] == "bob"] == ["rollback"]


def test_nothing_is_moved_while_a_rollout_is_under_way(played: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    state = played.endpoint.state()
    split = state.model_copy(update={"deployments": {"blue": 1, "green": 2}, "traffic": {"blue": 90, "green": 10}})
    monkeypatch.setattr(type(played.endpoint), "state", lambda self: split)
    with pytest.raises(GiveUp, match=r"a rollout is under way \(blue 90 %, green 10 %\)"):
        operating.rollback(played, reason="now", person="ann", log=quiet)


def test_a_hold_in_the_middle_of_a_rollout_is_set_and_counts_from_the_next_decision(
    played: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = played.endpoint.state()
    split = state.model_copy(update={"deployments": {"blue": 1, "green": 2}, "traffic": {"blue": 90, "green": 10}})
    with monkeypatch.context() as during:
        during.setattr(type(played.endpoint), "state", lambda self: split)
        assert operating.hold(played, reason="it looks odd", person="ann").startswith("held: ")
    assert decisions.held(played) is not None
    assert operating.hold(played, reason="me, too", person="bob").startswith("it is held by ann since ")
    operating.release(played, reason="it was nothing", person="ann")
    assert decisions.held(played) is None


def test_a_champion_that_is_gone_from_the_registry_is_named_with_the_way_out(played: Platform) -> None:
    newest = played.registry.manifest(played.registry.versions()[-1])
    with pytest.raises(GiveUp, match=r"v99 serves but is gone from the registry.*`al promote V --reason WHY`"):
        verdict_on(played, newest, 99)


def test_a_version_that_does_not_know_todays_classes_is_let_serve_by_nobody(
    played: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = played.datasets.latest()
    assert today is not None
    manifest = today.manifest.model_copy(update={"classes": (*today.manifest.classes, "ten")})
    monkeypatch.setattr(type(played.datasets), "latest", lambda self: replace(today, manifest=manifest))
    serving = played.endpoint.state().serving_version
    other = next(version for version in played.registry.versions() if version != serving)
    with pytest.raises(InvalidInput, match=f"v{other} does not know ten, which people label today"):
        operating.promote(played, other, reason="why not", person="ann", log=quiet)
    with pytest.raises(InvalidInput, match="does not know ten, which people label today"):
        operating.rollback(played, reason="back to what was", person="ann", log=quiet)
    assert played.endpoint.state().serving_version == serving


def test_a_training_that_is_done_again_is_found_though_another_version_serves_by_now(played: Platform) -> None:
    before = played.registry.versions()
    newest = played.registry.manifest(before[-1])
    again = train_challenger(played, played.datasets.of_version(newest.dataset_version), run_id="again", log=quiet)
    assert (again.version, played.registry.versions()) == (newest.version, before)


# ---------------------------------------------------------------------- a batch that is labeled in part
IMAGES = [hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest() for number in range(4_000)]


def put_to_people(platform: Platform, image_ids: list[str]) -> None:
    """Round 1 holds these as duels."""
    rows = [
        {"round": 1, "image_id": one, "image_uri": "images/x.png", "reason": "duel", "selected_at": utc_now()}
        for one in image_ids
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["round", "image_id"])


def answer(platform: Platform, image_ids: list[str], label: str | None, outcome: str | None = None) -> None:
    """Somebody answers, and the dataset is published."""
    rows = [
        {
            "image_id": one,
            "label": label,
            "outcome": outcome,
            "annotator": "ann",
            "labeled_at": utc_now(),
            "export_id": "export",
            "round": 1,
            "answer": 0,
        }
        for one in image_ids
    ]
    platform.ledgers.insert_new("labels", table_of(LABELS, rows), ["image_id"])
    publish_dataset(platform, 1)


def verdict(platform: Platform, pairing: pl.DataFrame) -> GateVerdict:
    dataset = platform.datasets.latest()
    assert dataset is not None
    return judge_pair(platform, pairing, dataset, champion=1, costs=Costs())


def pair_of(differ: list[str], agree: list[str]) -> pl.DataFrame:
    """The challenger says b where the two differ."""
    rows = [(one, "images/x.png", None, "a", "b") for one in differ]
    rows += [(one, "images/x.png", None, "a", "a") for one in agree]
    return pl.DataFrame(rows, schema=PAIRING, orient="row")


def test_duels_that_still_wait_for_their_answer_count_against_what_is_to_be_shown(platform: Platform) -> None:
    """What is labeled first may be what is easy: five that were won do not speak for fifteen that wait."""
    duelling = platform.settings.holdout.judges.among(IMAGES, "duel")
    differ, pairing = duelling[:20], pair_of(duelling[:20], duelling[20:600])
    put_to_people(platform, differ)
    answer(platform, differ[:5], "b")
    partly = verdict(platform, pairing)
    assert (partly.outcome, partly.won, partly.unasked) == ("open", 5, 15)
    assert "15 have no label and are counted against what is to be shown" in partly.reason

    answer(platform, differ[5:12], None, "skip")  # there is none to give: nobody waits for these
    skipped = verdict(platform, pairing)
    assert (skipped.won, skipped.unasked) == (5, 8)

    answer(platform, differ[12:], "b")
    whole = verdict(platform, pairing)
    assert (whole.outcome, whole.won, whole.unasked) == ("better", 13, 0)


def test_a_label_of_a_duel_that_comes_after_the_next_challenger_decides_that_one_too(platform: Platform) -> None:
    """The order is the same for all pairs: what was asked for one pair lies where the next one needs it."""
    duelling = platform.settings.holdout.judges.among(IMAGES, "duel")
    put_to_people(platform, duelling[:20])
    answer(platform, duelling[:2], "b")
    newer = pair_of(duelling[:21], duelling[21:600])
    assert verdict(platform, newer).outcome == "open"
    answer(platform, duelling[2:20], "b")  # for the older challenger, in whose batch they were
    late = verdict(platform, newer)
    assert (late.outcome, late.won, late.unasked) == ("better", 20, 1)
