"""Judging: is a challenger better than the model that serves, worse, or is it still open?

Both answer the same reserved images; the answers are stored, so that whoever has them and the labels comes to the same
verdict. Labels come in later than answers, so a verdict is taken again whenever it is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from al_core.errors import GiveUp
from al_core.judging.contest import duels, who_asks, whom_to_judge

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.judging.evaluation import Evaluation
    from al_core.judging.gate import Costs, Truth
    from al_core.learning.inference import Predictor
    from al_core.records import GateVerdict, ModelManifest
    from al_resources.platform import Platform

EVALUATION_FILE = "evaluation.parquet"  # beside a version: its answers on the holdout as it was
PAIRING_FILE = "pairing.parquet"  # beside a challenger: its answers and those of the champion it was trained from


def truth_of(dataset: Dataset) -> Truth:
    """The labels of a dataset version that judge."""
    from al_core.dataset import JUDGES
    from al_core.judging.gate import Truth

    judges = dataset.rows.filter(pl.col("split").is_in(JUDGES))
    labels = dict(judges.select("image_id", "label").iter_rows())
    return Truth(labels, frozenset(judges.filter(split="holdout")["image_id"]), dataset.manifest.holdout)


def evaluated(platform: Platform, predictor: Predictor, dataset: Dataset) -> Evaluation:
    """The model's answers on the holdout, in bounded memory."""
    from al_core.judging.evaluation import evaluate

    known = platform.embeddings if platform.settings.training.frozen else None
    return evaluate(predictor, dataset.images("holdout"), platform.images.read, known)


def evaluation_of(platform: Platform, manifest: ModelManifest) -> Evaluation | None:
    """What that version answered on the holdout when it was trained; None where that is not stored."""
    from al_core.judging.evaluation import Evaluation

    try:
        return Evaluation.from_bytes(platform.registry.file(manifest.version, EVALUATION_FILE))
    except FileNotFoundError:
        return None


def compared_images(platform: Platform, dataset: Dataset) -> pl.DataFrame:
    """The reserved images that two models are compared on: image_id, image_uri, image_hash.

    All that were ever logged, up to `gate.duel_images`; beyond, a window of the random order, the same for all pairs,
    and the whole holdout, which is a uniform sample, too. Images that were labeled or wait for a label belong to it
    like all others, but for those that teach because they were labeled before there was a reserve.
    """
    from al_core.dataset import JUDGES
    from al_core.strategies.base import KEY_SPACE, Order

    reserve, limit = platform.settings.holdout.judges, platform.settings.gate.duel_images
    order = Order("random", seed=reserve.multiplier)
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


def pair(platform: Platform, challenger: Predictor, champion: Predictor, dataset: Dataset) -> pl.DataFrame:
    """Both models' answers to the reserved images, rows of `duels.PAIRING`; what cannot be read is left out."""
    from al_core.judging.duels import PAIRING
    from al_core.learning.contract import LabeledImage
    from al_loop.answering import answers_of

    images = compared_images(platform, dataset).sort("image_id")
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
    costs: Costs,
) -> GateVerdict:
    """The verdict that answers and labels amount to now.

    Of a batch that is labeled in part, those that still wait count against whatever is to be shown: who labels chose
    what came first, and it may be what is easy.
    """
    from al_core.answers import answered
    from al_core.judging.gate import decide

    return decide(
        pairing,
        truth_of(dataset),
        answered=set(answered(platform.ledgers.read("labels"))),
        reserve=platform.settings.holdout.judges,
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

    costs = Costs(challenger.latency_ms, challenger.size_mb)
    dataset = _newest(platform, challenger)
    if champion is None:
        evaluation = evaluation_of(platform, challenger)
        if evaluation is None:
            raise GiveUp(f"v{challenger.version} was never evaluated; materialize model_checkpoint again")
        right, images = int(evaluation.correct.sum()), evaluation.answers.height
        return first_model(right, images, platform.settings.gate.rules, truth_of(dataset), costs)
    pairing = pairing_of(platform, challenger, champion)
    return judge_pair(platform, pairing, dataset, champion=champion, costs=costs)


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
        ours, theirs = _loaded(platform, challenger.version), _loaded(platform, champion)
        found = pair(platform, ours, theirs, _newest(platform, challenger))
        platform.blobs.write(path, to_bytes(found), if_absent=True)
    return pl.read_parquet(io.BytesIO(platform.blobs.read(path)))


def verdicts_against(
    platform: Platform, champion: int | None, candidates: Sequence[ModelManifest]
) -> Callable[[int], GateVerdict]:
    """The verdict on the version that is asked for, which is one of the candidates; each is taken once."""
    manifests = {manifest.version: manifest for manifest in candidates}
    return cache(lambda version: verdict_on(platform, manifests[version], champion))


def newest_not_worse(platform: Platform, serving: int, candidates: Sequence[ModelManifest]) -> int:
    """The newest version that is not proven worse than who serves; who serves where there is none."""
    versions = [manifest.version for manifest in candidates]
    return who_asks(versions, serving, verdicts_against(platform, serving, candidates))


def duel_rows(
    platform: Platform, champion: int, candidates: Sequence[ModelManifest], count: int
) -> list[dict[str, Any]]:
    """Rows of `SELECTIONS` for images on which a challenger and who serves disagree, while that is open."""
    versions = [manifest.version for manifest in candidates]
    judged = whom_to_judge(versions, verdicts_against(platform, champion, candidates))
    if judged is None or count <= 0:
        return []
    challenger = candidates[versions.index(judged)]
    rows = duels(
        pairing_of(platform, challenger, champion),
        truth_of(_newest(platform, challenger)).holdout,
        platform.settings.holdout.judges,
        known={*platform.ledgers.read("selections")["image_id"], *platform.ledgers.read("labels")["image_id"]},
        count=count,
    )
    return [row | {"model_version": judged, "against_version": champion} for row in rows]


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
