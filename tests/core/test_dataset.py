"""What the labeled dataset promises: one label per image, splits that never leak, versions by content."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from itertools import combinations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import hamming_distance

from al_core.dataset import (
    JUDGES,
    ROWS,
    SPLITS,
    Dataset,
    below,
    build_dataset,
    from_jsonl,
    leaks,
    resolve_labels,
    to_jsonl,
    uses,
)
from al_core.judging.truth import DUEL, LABELED_BEFORE, SAMPLE, UNIFORM_REASONS, Reserve
from al_core.records import LABELS

START = datetime(2024, 1, 1, tzinfo=UTC)
DISTANCE = 4
HALF = Reserve(0.5)  # of all images may judge


def image_id(name: object) -> str:
    return hashlib.blake2b(str(name).encode(), digest_size=16).hexdigest()


def ledger(*votes: tuple[str, str, str, int | None]) -> pl.DataFrame:
    """Rows of (image, label, annotator, minute)."""
    rows = [
        {
            "image_id": image,
            "label": label,
            "annotator": annotator,
            "labeled_at": None if minute is None else START + timedelta(minutes=minute),
            "round": 1,
        }
        for image, label, annotator, minute in votes
    ]
    return pl.DataFrame(rows, schema=pl.DataFrame(LABELS.empty_table()).schema)


def resolved(labels: dict[str, str], round_: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {"image_id": list(labels), "label": list(labels.values()), "round": [round_] * len(labels)},
        schema={"image_id": pl.String(), "label": pl.String(), "round": pl.Int64()},
    )


def build(
    labels: dict[str, str],
    *,
    reasons: dict[str, str] | None = None,
    hashes: dict[str, str | None] | None = None,
    parent: Dataset | None = None,
    reserve: Reserve = HALF,
    validation_share: float = 0.3,
    distance: int = DISTANCE,
    round_: int = 1,
) -> Dataset:
    return build_dataset(
        resolved(labels, round_),
        reasons=reasons or {},
        urls={image: f"images/{image}.png" for image in labels},
        hashes=hashes or {},
        parent=parent,
        reserve=reserve,
        validation_share=validation_share,
        near_duplicate_distance=distance,
        round_=round_,
    )


def split_of(dataset: Dataset) -> dict[str, str]:
    return dict(dataset.rows.select("image_id", "split").iter_rows())


# ---------------------------------------------------------------- which label counts


def test_the_latest_label_counts():
    votes = ledger(("a", "cat", "ann", 1), ("a", "dog", "bob", 2), ("b", "cat", "ann", 1))
    assert resolve_labels(votes, "latest").rows() == [("a", "dog", 1), ("b", "cat", 1)]


def test_the_majority_counts_and_everyone_has_one_vote():
    votes = ledger(
        ("a", "cat", "ann", 1),
        ("a", "cat", "ann", 2),
        ("a", "cat", "ann", 3),
        ("a", "dog", "bob", 1),
        ("a", "dog", "eve", 2),
    )
    assert resolve_labels(votes, "majority")["label"].to_list() == ["dog"]


def test_a_tie_goes_to_the_younger_vote_then_to_the_name_that_sorts_first():
    assert resolve_labels(ledger(("a", "cat", "ann", 1), ("a", "dog", "bob", 2)), "majority")["label"][0] == "dog"
    assert resolve_labels(ledger(("a", "dog", "ann", 1), ("a", "cat", "bob", 1)), "majority")["label"][0] == "cat"


def test_a_vote_without_a_time_is_older_than_any_other():
    assert resolve_labels(ledger(("a", "cat", "ann", 1), ("a", "dog", "bob", None)), "latest")["label"][0] == "cat"


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("pqr"), st.integers(0, 3)),
        min_size=1,
        unique_by=lambda vote: (vote[0], vote[2], vote[3]),  # of one moment the last to arrive counts
    ),
    st.sampled_from(["latest", "majority"]),
    st.randoms(),
)
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_ledger_does_not_matter(votes, rule, random):
    shuffled = random.sample(votes, len(votes))
    result = resolve_labels(ledger(*votes), rule)
    assert result.equals(resolve_labels(ledger(*shuffled), rule))
    assert result["image_id"].is_unique().all()


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("reason", LABELED_BEFORE)
def test_labels_that_were_there_before_judge_as_far_as_they_are_reserved_if_they_are_a_random_sample(reason):
    images = [image_id(i) for i in range(500)]
    reserve = Reserve(0.2)
    split = split_of(build(dict.fromkeys(images, "x"), reasons=dict.fromkeys(images, reason), reserve=reserve))
    assert {image for image in images if split[image] == "holdout"} == set(reserve.among(images))
    assert set(split.values()) == {"holdout", "train", "validation"}
    people_chose = split_of(build(dict.fromkeys(images, "x"), reserve=reserve))
    assert set(people_chose.values()) == {"train", "validation"}


def test_once_there_was_a_duel_a_sample_from_what_is_reserved_for_duels_measures_nothing():
    first, images = image_id("asked"), [image_id(i) for i in range(500)]
    parent = build({first: "x"}, reasons={first: DUEL})
    split = split_of(build(dict.fromkeys([first, *images], "x"), reasons=dict.fromkeys(images, SAMPLE), parent=parent))
    for image in images:
        role = "holdout" if HALF.holds(image, "measure") else "duel" if HALF.holds(image, "duel") else None
        assert split[image] == role if role else split[image] in ("train", "validation")


def test_every_reserved_image_that_was_drawn_uniformly_judges_and_every_other_label_teaches():
    images = [image_id(i) for i in range(2000)]
    reasons = {image: ("seed", "control", "strategy", DUEL)[i % 4] for i, image in enumerate(images)}
    reserve = Reserve(0.2)
    rows = build(dict.fromkeys(images, "x"), reasons=reasons, reserve=reserve).rows
    for image, split in rows.select("image_id", "split").iter_rows():
        # the seed round draws from what is reserved for duels where a folder is smaller than its budget
        expected, part = {
            "seed": ("holdout", "judge"), "control": ("holdout", "measure"), DUEL: ("duel", "duel"),
        }.get(reasons[image], (None, "judge"))  # fmt: skip
        if expected and reserve.holds(image, part):
            assert split == expected
        else:
            assert split in ("train", "validation")
    rest = rows.filter(pl.col("split").is_in(["train", "validation"]))
    assert (rest["split"] == "validation").mean() == pytest.approx(0.3, abs=0.05)
    told = uses(rows)
    assert sum(told.values()) == 2000
    assert told["teach"] == rest.height
    assert told["judge: of duels"] == rows.filter(split="duel").height


def test_a_label_that_nobody_asked_for_teaches_even_of_a_reserved_image():
    rows = build({HELD_OUT: "x"}, reasons={}).rows
    assert rows["split"][0] in ("train", "validation")


def test_a_window_of_ids_is_split_like_any_other():
    """Random draws are windows of sorted ids: one that fell into a split as a whole would be no sample."""
    window = [f"{i:032x}" for i in range(3000)]
    assert 0.45 < sum(below(image, "validation", 0.5) for image in window) / 3000 < 0.55
    scattered = [image_id(i) for i in range(3000)]
    both = sum(HALF.holds(image) and below(image, "validation", 0.5) for image in scattered)
    assert 0.2 < both / 3000 < 0.3  # the two answers are independent


HELD_OUT = next(i for i in map(image_id, range(99)) if HALF.holds(i, "measure"))
TRAINED = next(i for i in map(image_id, range(99)) if not HALF.holds(i) and not below(i, "validation", 0.3))
VALIDATED = next(i for i in map(image_id, range(99)) if not HALF.holds(i) and below(i, "validation", 0.3))
LATER = [i for i in map(image_id, range(100, 400)) if not HALF.holds(i)][:20]
LATER_HELD_OUT = next(i for i in map(image_id, range(100, 400)) if HALF.holds(i, "measure"))
HASH, NEAR, NEARER, FAR = "0" * 32, "f" + "0" * 31, "3" + "0" * 31, "f" * 32


def first_version(hashes: dict[str, str | None]) -> Dataset:
    images = [HELD_OUT, TRAINED, VALIDATED]
    dataset = build(dict.fromkeys(images, "x"), reasons=dict.fromkeys(images, "seed"), hashes=hashes)
    assert split_of(dataset) == {HELD_OUT: "holdout", TRAINED: "train", VALIDATED: "validation"}
    return dataset


@pytest.mark.parametrize("reason", ["strategy", "seed"])
def test_a_twin_of_a_held_out_image_is_excluded_and_the_reason_said(reason):
    parent = first_version({HELD_OUT: HASH})
    twin = LATER[0]
    dataset = build({twin: "x"}, reasons={twin: reason}, hashes={twin: NEAR}, parent=parent)
    assert split_of(dataset)[twin] == "excluded"
    assert dataset.rows.filter(image_id=twin)["note"][0] == f"near-duplicate of {HELD_OUT}, which is held out"


@pytest.mark.parametrize("used", [TRAINED, VALIDATED])
def test_a_random_image_follows_its_twin_into_training_or_validation(used):
    parent = first_version({used: HASH})
    twin = LATER_HELD_OUT
    dataset = build({twin: "x"}, reasons={twin: "control"}, hashes={twin: NEAR}, parent=parent)
    assert split_of(dataset)[twin] == split_of(parent)[used]
    assert dataset.rows.filter(image_id=twin)["note"][0] == f"near-duplicate of {used}"


def test_an_image_between_two_splits_is_excluded():
    parent = first_version({VALIDATED: NEAR, TRAINED: "00" + "f" + "0" * 29})
    bridge = LATER[0]
    dataset = build({bridge: "x"}, hashes={bridge: HASH}, parent=parent)
    assert split_of(dataset)[bridge] == "excluded"
    assert VALIDATED in dataset.rows.filter(image_id=bridge)["note"][0]
    assert TRAINED in dataset.rows.filter(image_id=bridge)["note"][0]


def test_without_a_distance_every_image_stands_alone():
    parent = first_version({HELD_OUT: HASH})
    dataset = build({LATER[0]: "x"}, hashes={LATER[0]: HASH}, parent=parent, distance=-1)
    assert split_of(dataset)[LATER[0]] in ("train", "validation")


def test_an_image_keeps_its_split_whatever_the_shares_become():
    parent = first_version({})
    images = [HELD_OUT, TRAINED, VALIDATED]
    moved = build(
        dict.fromkeys(images, "y"),
        reasons=dict.fromkeys(images, "seed"),
        parent=parent,
        reserve=Reserve(0.01),
        validation_share=0.99,
        round_=2,
    )
    assert split_of(moved) == split_of(parent)
    assert moved.manifest.version != parent.manifest.version
    assert set(moved.rows["label"]) == {"y"}
    assert set(moved.rows["round"]) == {1}


def test_a_labeled_image_without_an_address_is_an_error():
    with pytest.raises(ValueError, match=r"1 labeled image\(s\) have no address"):
        build_dataset(
            resolved({TRAINED: "x"}),
            reasons={},
            urls={},
            hashes={},
            parent=None,
            reserve=HALF,
            validation_share=0.1,
            near_duplicate_distance=4,
            round_=1,
        )


@st.composite
def histories(draw):
    """Some rounds of labels; hashes lie close enough together to form chains of near-duplicates."""
    count = draw(st.integers(1, 24))
    images = [image_id(i) for i in range(count)]
    patterns = st.integers(0, 2**9 - 1).map(lambda bits: f"{bits:032x}")
    hashes = {image: draw(st.none() | patterns) for image in images}
    reasons = {image: draw(st.sampled_from(["seed", "control", "strategy", DUEL, None])) for image in images}
    rounds = [draw(st.dictionaries(st.sampled_from(images), st.sampled_from("xyz"))) for _ in range(3)]
    return rounds, {image: reason for image, reason in reasons.items() if reason}, hashes


@given(histories())
@settings(max_examples=120, deadline=None)
def test_nothing_ever_leaks(history):
    rounds, reasons, hashes = history
    parent, before, known = None, {}, {}
    for number, labels in enumerate(rounds, start=1):
        known |= labels
        dataset = build(known, reasons=reasons, hashes=hashes, parent=parent, round_=number)
        rows = dataset.rows
        assert rows.schema == ROWS
        assert rows["image_id"].to_list() == sorted(known)  # every image once
        after = split_of(dataset)
        assert before.items() <= after.items()  # for ever
        assert all(reasons.get(image) in UNIFORM_REASONS for image, split in after.items() if split == "holdout")
        judges = {image for image, split in after.items() if split in JUDGES}
        assert all(HALF.holds(image) for image in judges)
        placed = [(image, split) for image, split in after.items() if split != "excluded" and hashes[image]]
        for (one, split), (other, other_split) in combinations(placed, 2):
            if split != other_split and not {split, other_split} <= set(JUDGES):
                assert hamming_distance(hashes[one], hashes[other]) > DISTANCE
        assert leaks(rows, DISTANCE) == []
        assert all(rows.filter(split="excluded")["note"].is_not_null())
        again = build(known, reasons=reasons, hashes=hashes, parent=dataset, round_=number + 1)
        assert again.manifest == dataset.manifest  # the same labels are the same version
        assert again.rows.equals(rows)
        parent, before = dataset, after


def test_leaks_are_found():
    rows = first_version({}).rows.with_columns(image_hash=pl.lit(HASH))
    found = leaks(rows, DISTANCE)
    assert {leak["image"] for leak in found} == {TRAINED, VALIDATED}
    assert {leak["holdout image"] for leak in found} == {HELD_OUT}
    both = pl.concat([rows, rows.filter(split="holdout").with_columns(split=pl.lit("train"))])
    assert HELD_OUT in {leak["image"] for leak in leaks(both, -1)}


# ---------------------------------------------------------------- versions and files


def test_the_version_is_the_content():
    labels = {image_id(i): "xy"[i % 2] for i in range(20)}
    one, other = build(labels), build(dict(reversed(labels.items())), round_=7)
    assert one.manifest.version == other.manifest.version
    assert build(labels | {image_id(0): "z"}).manifest.version != one.manifest.version


def test_classes_keep_their_order_and_new_ones_follow_sorted():
    first = build({image_id(0): "dog", image_id(1): "cat"})
    assert first.manifest.classes == ("cat", "dog")
    second = build({image_id(2): "zebra", image_id(3): "ant"}, parent=first, round_=2)
    assert second.manifest.classes == ("cat", "dog", "ant", "zebra")
    assert (second.manifest.sequence, second.manifest.parent) == (2, first.manifest.version)


def test_the_manifest_counts_every_split_and_names_the_holdout():
    dataset = first_version({})
    assert dataset.manifest.counts == {"train": 1, "validation": 1, "holdout": 1, "duel": 0, "excluded": 0}
    more = build({LATER[0]: "x"}, parent=dataset, round_=2)
    assert more.manifest.holdout == dataset.manifest.holdout
    assert more.manifest.version != dataset.manifest.version


def test_no_label_gives_an_empty_version():
    dataset = build({})
    assert dataset.rows.is_empty()
    assert dataset.manifest.classes == ()


def test_the_images_of_a_split_are_ready_for_training():
    dataset = first_version({})
    (image,) = dataset.images("train")
    assert (image.image_id, image.uri, image.label) == (TRAINED, f"images/{TRAINED}.png", "x")


def test_rows_survive_their_file_and_carry_the_names_that_automl_expects():
    labels = {image_id(i): label for i, label in enumerate(["plain", "käse\t", 'quo"te', "a\nb"])}
    rows = build(labels, hashes=dict.fromkeys(labels, HASH)).rows
    files = [to_jsonl(rows.filter(split=split)) for split in SPLITS]
    assert all(b'"image_url"' in line and b'"label"' in line for file in files for line in file.splitlines())
    read = from_jsonl(line for file in files for line in file.splitlines())
    assert read.sort("image_id").equals(rows)
