"""Judging: is a challenger better than the model that serves, worse, or is it still open?

Both answer the same reserved images; the answers are stored, so that whoever has them and the labels comes to the same
verdict. Labels come in later than answers, so a verdict is taken again whenever it is needed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.judging.evaluation import Evaluation
    from al_core.judging.gate import Costs, Truth
    from al_core.learning.inference import Predictor
    from al_core.records import GateVerdict, ModelManifest
    from al_resources.platform import Platform

PAIRING_FILE = "pairing.parquet"  # beside a challenger: its answers and those of the champion it was trained from


def truth_of(dataset: Dataset) -> Truth:
    """The labels of a dataset version that judge."""
    from al_core.dataset import JUDGES
    from al_core.judging.gate import Truth

    judges = dataset.rows.filter(pl.col("split").is_in(JUDGES))
    labels = dict(judges.select("image_id", "label").iter_rows())
    return Truth(labels, frozenset(judges.filter(split="holdout")["image_id"]), dataset.manifest.holdout)


def compared_images(platform: Platform, dataset: Dataset, salt: str) -> pl.DataFrame:
    """The reserved images that two models are compared on: image_id, image_uri, image_hash.

    All that were ever logged, up to `gate.duel_images`; beyond, a window of the random order and the whole holdout,
    which is a uniform sample, too. Images that were labeled or wait for a label belong to it like all others, but for
    those that teach because they were labeled before there was a reserve.
    """
    from al_core.dataset import JUDGES
    from al_core.strategies.base import KEY_SPACE, Order

    reserve, limit = platform.settings.holdout.judges, platform.settings.gate.duel_images
    order = Order("random", seed=int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=4).digest(), "big"))
    columns = ["image_uri", "image_hash"]
    found = platform.predictions.eligible(
        platform.settings.model.name, None, order, limit, ["image_key", *columns], part=reserve.part("judge")
    )
    unlabeled = pl.DataFrame(found)
    judges = dataset.rows.filter(pl.col("split").is_in(JUDGES))
    waiting = platform.ledgers.read("selections").join(dataset.rows, on="image_id", how="anti").unique("image_id")
    waiting = waiting.filter(pl.col("image_id").is_in(reserve.among(waiting["image_id"].to_list())))
    known = pl.concat(
        [
            judges.select("image_id", "split", image_uri="image_url", image_hash="image_hash"),
            waiting.select("image_id", split=pl.lit("waiting"), image_uri="image_uri", image_hash="image_hash"),
        ]
    )
    if unlabeled.height == limit:
        place = (pl.col("image_key") - order.pivot) % KEY_SPACE
        end = unlabeled.select(place.max()).item() if limit else -1
        known = known.with_columns(image_key=pl.col("image_id").str.slice(0, 15).str.to_integer(base=16))
        known = known.filter((pl.col("split") == "holdout") | (place <= end))
    return pl.concat([frame.select("image_id", *columns) for frame in (known, unlabeled)]).unique("image_id")


def pair(platform: Platform, challenger: Predictor, champion: Predictor, dataset: Dataset, salt: str) -> pl.DataFrame:
    """Both models' answers to the reserved images, rows of `duels.PAIRING`; what cannot be read is left out."""
    from al_core.judging.duels import PAIRING
    from al_core.learning.contract import LabeledImage
    from al_loop.answering import answers_of

    images = compared_images(platform, dataset, salt).sort("image_id")
    asked = [LabeledImage(image_id, uri, "") for image_id, uri, _ in images.iter_rows()]
    for name, predictor in (("champion", champion), ("challenger", challenger)):
        ids, probs, _ = answers_of(platform, predictor, asked)
        predicted = [predictor.classes[place] for place in probs.argmax(axis=1)] if len(ids) else []
        answers = pl.DataFrame({"image_id": ids, name: predicted}, schema={"image_id": pl.String(), name: pl.String()})
        images = images.join(answers, on="image_id", how="inner", maintain_order="left")
    return images.select(PAIRING.names())


def judge_pair(
    platform: Platform,
    pairing: pl.DataFrame,
    dataset: Dataset,
    *,
    champion: int,
    salt: str,
    costs: Costs,
) -> GateVerdict:
    """The verdict that answers and labels amount to now."""
    from al_core.judging.gate import decide

    return decide(
        pairing,
        truth_of(dataset),
        asked=set(platform.ledgers.read("selections")["image_id"]),
        reserve=platform.settings.holdout.judges,
        salt=salt,
        champion_version=champion,
        rules=platform.settings.gate.rules,
        costs=costs,
    )


def verdict_on(platform: Platform, challenger: ModelManifest, champion: int | None) -> GateVerdict:
    """The verdict on a published version against who serves, from what is stored and all labels so far.

    Raises:
        GiveUp: the version was never evaluated, or the champion is gone from the registry.
    """
    from al_core.judging.gate import Costs, first_model
    from al_loop.training import CHALLENGER_EVALUATION, evaluation_of

    costs = Costs(challenger.latency_ms, challenger.size_mb)
    dataset = _newest(platform, challenger)
    if champion is None:
        evaluation: Evaluation | None = evaluation_of(platform, challenger, CHALLENGER_EVALUATION)
        if evaluation is None:
            raise GiveUp(f"v{challenger.version} was never evaluated; materialize model_checkpoint again")
        right, images = int(evaluation.correct.sum()), evaluation.answers.height
        return first_model(right, images, platform.settings.gate.rules, truth_of(dataset), costs)
    pairing = pairing_of(platform, challenger, champion)
    return judge_pair(
        platform,
        pairing,
        dataset,
        champion=champion,
        salt=salt_of(challenger.training_key, champion),
        costs=costs,
    )


def pairing_of(platform: Platform, challenger: ModelManifest, champion: int) -> pl.DataFrame:
    """The stored answers of the two; made and stored now where another champion serves than the challenger met.

    Raises:
        GiveUp: the champion is gone from the registry.
    """
    if challenger.gate is not None and challenger.gate.champion_version == champion:
        try:
            return pl.read_parquet(io.BytesIO(platform.registry.file(challenger.version, PAIRING_FILE)))
        except FileNotFoundError:
            pass  # of before there were duels
    path = f"duels/{challenger.name}/{challenger.version}-against-{champion}.parquet"
    if not platform.blobs.exists(path):
        salt = salt_of(challenger.training_key, champion)
        ours, theirs = _loaded(platform, challenger.version), _loaded(platform, champion)
        found = pair(platform, ours, theirs, _newest(platform, challenger), salt)
        platform.blobs.write(path, to_bytes(found), if_absent=True)
    return pl.read_parquet(io.BytesIO(platform.blobs.read(path)))


def duel_rows(platform: Platform, challenger: ModelManifest, champion: int, count: int) -> list[dict[str, Any]]:
    """Rows of `SELECTIONS` for the next images on which the two disagree, while their verdict is open; at most `count`.

    Fewer, or none, where they disagree on no more images that nobody was asked about.
    """
    from al_core.judging.duels import asking_order, next_images

    if count <= 0 or verdict_on(platform, challenger, champion).outcome != "open":
        return []
    pairing, reserve = pairing_of(platform, challenger, champion), platform.settings.holdout.judges
    holdout = truth_of(_newest(platform, challenger)).holdout
    order = asking_order(pairing, holdout, reserve, salt_of(challenger.training_key, champion))
    known = {*platform.ledgers.read("selections")["image_id"], *platform.ledgers.read("labels")["image_id"]}
    open_ones = next_images(pairing, order, known)
    chosen = open_ones[:count]
    rows = {row["image_id"]: row for row in pairing.iter_rows(named=True)}
    return [
        {
            "image_id": image_id,
            "image_uri": rows[image_id]["image_uri"],
            "image_hash": rows[image_id]["image_hash"],
            "model_version": challenger.version,
            "against_version": champion,
            "challenger_answer": rows[image_id]["challenger"],
            "champion_answer": rows[image_id]["champion"],
            "propensity": len(chosen) / len(open_ones),
        }
        for image_id in chosen
    ]


def salt_of(training_key: str, champion: int) -> str:
    """Names a pair of models: its images are asked for in a random order of their own."""
    return f"{training_key}:{champion}"


def to_bytes(frame: pl.DataFrame) -> bytes:
    """As a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _newest(platform: Platform, challenger: ModelManifest) -> Dataset:
    """All labels so far, whatever the challenger was trained on."""
    return platform.datasets.latest() or platform.datasets.of_version(challenger.dataset_version)


def _loaded(platform: Platform, version: int) -> Predictor:
    from al_loop.answering import predictor_of

    if version not in platform.registry.versions():
        raise GiveUp(
            f"v{version} serves but is gone from the registry, so nothing can be compared with it; restore it, or "
            "let another version serve with `al promote V --reason WHY`"
        )
    return predictor_of(platform, version)


def newest_not_worse(platform: Platform, serving: int, candidates: Sequence[ModelManifest]) -> ModelManifest:
    """The newest version that is not proven worse than who serves; who serves where there is none."""
    for manifest in candidates:
        if verdict_on(platform, manifest, serving).outcome != "worse":
            return manifest
    return platform.registry.manifest(serving)
