"""Selecting: the few images of a round that are worth a person's time, on record and staged for labeling."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from al_core.errors import GiveUp

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from al_core.selection import Selection
    from al_core.strategies.base import QueryStrategy
    from al_loop.rescoring import Rescored
    from al_resources.labeling.staging import Staged
    from al_resources.platform import Platform


@dataclass(frozen=True)
class Wishes:
    """How one round is to be selected; what is left empty comes from the settings."""

    strategy: str | None = None
    strategy_settings: dict[str, Any] = field(default_factory=dict)
    budget: int | None = None
    control_share: float | None = None
    seed: int | None = None
    reselect: bool = False  # of a round that is selected already: choose anew what nobody has answered yet

    @property
    def asks_for_something(self) -> bool:
        """Whether anything but the settings is wanted."""
        return self != Wishes(reselect=self.reselect)


def choose(
    platform: Platform, round_: int, wishes: Wishes, log: Callable[[str], None]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The round's rows of the selections ledger, made now or earlier, and facts about the choice.

    A round is selected once. Where it is asked for again, the facts say so under "selected before"; with
    `wishes.reselect` what nobody has answered yet is chosen anew.
    """
    recorded = platform.ledgers.read("selections", round=round_)
    if recorded.height and not wishes.reselect:
        said = _selected_before(platform, round_, recorded, wishes)
        log(said)
        return recorded.sort("rank"), {"selected before": said}
    kept = _withdraw_unanswered(platform, round_, recorded, log) if recorded.height else recorded
    version = platform.endpoint.state().serving_version
    rest = _for_the_rest(platform, wishes, kept, version)
    if rest.budget == 0:
        return kept.sort("rank"), {"selected anew": f"nothing: {kept.height} images are answered, and they stay"}
    selection, scored_again = _selection(platform, round_, version, rest, log)
    if selection.table.num_rows == 0 and kept.is_empty():
        raise GiveUp(
            f"round {round_}: nothing to select. Every image {_of(version)} is selected or labeled already; "
            + ("add more with `al ingest FOLDER`" if version is None else "send it more traffic, or `al score FOLDER`")
        )
    if scored_again is not None:
        scored_again.record(platform, selection.table)
    platform.ledgers.insert_new("selections", _behind(kept, selection.table), on=["round", "image_id"])
    facts = dict(selection.facts)
    if recorded.height:
        facts["selected anew"] = f"{selection.table.num_rows} images; {kept.height} stay, which are answered"
    return platform.ledgers.read("selections", round=round_).sort("rank"), facts


def _selected_before(platform: Platform, round_: int, recorded: pl.DataFrame, wishes: Wishes) -> str:
    """What somebody hears who asks for a round that is selected."""
    answered = _answered_of_round(platform, round_, recorded).height
    told = (
        f"round {round_} was selected before: its {recorded.height} images, of which {answered} are answered, are "
        "staged again and nothing is chosen"
    )
    if not wishes.asks_for_something:
        return told
    return (
        f"{told}; what this run asks for was not used. reselect = true in the run's config chooses the "
        f"{recorded.height - answered} anew that nobody has answered yet"
    )


def _answered_of_round(platform: Platform, round_: int, recorded: pl.DataFrame) -> pl.DataFrame:
    """The rows of a round that stay: answered in the ledger or on the page. A label under review is answered."""
    import polars as pl

    from al_core.answers import answered
    from al_resources.labeling.answers import AnswerLog, standing_answers

    page = AnswerLog(platform.blobs, round_)
    page.refresh()
    done = {image_id for image_id, _ in standing_answers(page)} | set(answered(platform.ledgers.read("labels")))
    return recorded.filter(pl.col("image_id").is_in(list(done)))


def _withdraw_unanswered(
    platform: Platform, round_: int, recorded: pl.DataFrame, log: Callable[[str], None]
) -> pl.DataFrame:
    """Take back the images of a round that nobody has answered; the rows that stay.

    No other round holds them: what is selected once is offered to no other. From the ledger first, so that a run that
    is killed meanwhile leaves a round that is chosen to its end by the next one.
    """
    from al_resources.labeling.staging import unstage

    kept = _answered_of_round(platform, round_, recorded)
    withdrawn = recorded.join(kept, on="image_id", how="anti")["image_id"].to_list()
    if withdrawn:
        platform.ledgers.erase("selections", withdrawn)
        unstage(platform.blobs, withdrawn)
        log(f"round {round_}: {len(withdrawn)} images that nobody has answered are taken back and chosen anew")
    return kept


def _for_the_rest(platform: Platform, wishes: Wishes, kept: pl.DataFrame, version: int | None) -> Wishes:
    """The wishes, with the budget that answered images of the round leave."""
    if kept.is_empty():
        return wishes
    defaults = platform.settings.selection
    budget = wishes.budget or (defaults.initial_budget if version is None else defaults.budget)
    return replace(wishes, budget=max(0, budget - kept.height))


def _behind(kept: pl.DataFrame, chosen: pa.Table) -> pa.Table:
    """The chosen rows, ranked behind those that stay."""
    import pyarrow.compute as pc

    if kept.is_empty():
        return chosen
    place = chosen.schema.get_field_index("rank")
    first = int(kept["rank"].max()) + 1  # type: ignore[arg-type]
    return chosen.set_column(place, chosen.schema.field(place), pc.add(chosen["rank"], first))


def _of(version: int | None) -> str:
    return "in the image store" if version is None else f"that model v{version} scored"


def preview(platform: Platform, wishes: Wishes) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What the next round would choose now, and facts about the choice; nothing is recorded."""
    import polars as pl

    round_ = 1 + max(platform.ledgers.read("selections")["round"].to_list(), default=-1)
    version = platform.endpoint.state().serving_version
    selection, _ = _selection(platform, round_, version, wishes)
    return pl.DataFrame(selection.table).sort("rank"), selection.facts


def _selection(
    platform: Platform,
    round_: int,
    version: int | None,
    wishes: Wishes,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Selection, Rescored | None]:
    """New images, and labels that are worth a second look in a share of their places; and what was scored for it."""
    from al_loop.reviewing import labels_to_review

    if version is None:
        return _seed_batch(platform, round_, wishes, log), None
    budget = wishes.budget or platform.settings.selection.budget
    reviews = labels_to_review(platform, round_, budget)
    selection, scored_again = _batch(platform, round_, version, replace(wishes, budget=budget - len(reviews)))
    return with_reviews(selection, reviews, version) if reviews else selection, scored_again


def with_reviews(selection: Selection, reviews: list[dict[str, Any]], version: int) -> Selection:
    """The batch with the labels under review behind it."""
    import pyarrow as pa

    from al_core.records import SELECTIONS, table_of

    first = selection.table.num_rows
    rows = [{**row, "rank": first + place, "model_version": version} for place, row in enumerate(reviews)]
    table = pa.concat_tables([selection.table, table_of(SELECTIONS, rows)])
    return replace(selection, table=table, details={**selection.details, "labels under review": len(rows)})


def _batch(platform: Platform, round_: int, version: int, wishes: Wishes) -> tuple[Selection, Rescored | None]:
    from al_core.selection import SEARCH, Judging, select_batch
    from al_loop.rescoring import asking_version
    from al_loop.searching import searched
    from al_loop.strategy_inputs import strategy_context
    from al_resources.prediction_store.candidates import Candidates

    defaults = platform.settings.selection
    name, holdout = platform.settings.model.name, platform.settings.holdout
    budget, strategy = wishes.budget or defaults.budget, configured_strategy(platform, wishes)
    asking = asking_version(platform, version)
    context = strategy_context(platform, asking)
    seed = _seed(wishes, defaults.seed, round_)
    scored_again = _scored_again(platform, asking, version, strategy.given(context), budget, seed)
    about = _who_asked(asking, version, scored_again)
    if scored_again is None and asking != version:
        asking, context = version, strategy_context(platform, version)
    wanted = searched(platform, budget)
    duels, judged = _duels(platform, version, budget), _judged(platform)
    unlike = _different(platform, version, budget, budget - len(duels), judged)
    found = {row["image_id"] for row in wanted}
    rules = defaults.rules
    if wishes.control_share is not None:
        rules = replace(rules, control_share=wishes.control_share)
    selection = select_batch(
        Candidates(platform.predictions, name, version, holdout.teaching)
        if scored_again is None
        else scored_again.source,
        strategy=strategy,
        budget=budget,
        rules=rules,
        judging=Judging(
            Candidates(platform.predictions, name, version, holdout.judges.part("measure")),
            version,
            duels,
            judged,
        ),
        different=[*wanted, *(row for row in unlike if row["image_id"] not in found)],
        seed=seed,
        round_=round_,
        model_version=asking,
        context=context,
    )
    if wanted:
        about = {**about, "searched for": sum(reason == SEARCH for reason in selection.table["reason"].to_pylist())}
    return replace(selection, details={**selection.details, **about}), scored_again


def _scored_again(
    platform: Platform, asking: int, serving: int, strategy: QueryStrategy, budget: int, seed: int
) -> Rescored | None:
    """What the strategy may choose from, by a version that does not serve; None: the log as it is.

    That is so where the asking version serves, and where it may score (or finds) too few images for a batch.
    """
    from al_core.strategies.base import Order
    from al_loop.rescoring import rescored

    if asking == serving:
        return None
    prefilter = Order(strategy.prefilter, descending=strategy.prefilter == "entropy", seed=seed)
    keep = max(platform.settings.selection.pool_limit, budget)
    found = rescored(platform, asking, serving, strategy.order(seed) or prefilter, keep, seed, least=budget)
    enough = found.rows.num_rows + found.left_out >= min(budget, found.waiting)
    return found if enough and found.rows.num_rows else None


def _who_asked(asking: int, serving: int, scored_again: Rescored | None) -> dict[str, str | int]:
    if asking == serving:
        return {}
    if scored_again is None:
        why = f"v{asking} may score too few images again for a batch (selection.rescore_limit)"
        return {"asked by": f"v{serving}, which serves: {why}"}
    facts: dict[str, str | int] = {
        "asked by": f"v{asking}, the newest that is not proven worse than v{serving}, which serves",
        "images scored again": f"{scored_again.images} of {scored_again.waiting}",
    }
    if scored_again.left_out:
        facts["not scored again"] = scored_again.left_out
    return facts


def _judged(platform: Platform) -> dict[str, str]:
    """Near-duplicate hashes of the images that judge or will: the labeled ones, and those that wait for a label."""
    import polars as pl

    from al_core.dataset import JUDGES

    asked = platform.ledgers.read("selections").select("image_id", "image_hash")
    reserved = platform.settings.holdout.judges.among(asked["image_id"].to_list())
    judges = [asked.filter(pl.col("image_id").is_in(reserved))]
    if (dataset := platform.datasets.latest()) is not None:
        judges.append(dataset.rows.filter(pl.col("split").is_in(JUDGES)).select("image_id", "image_hash"))
    return dict(pl.concat(judges).drop_nulls().iter_rows())


def _duels(platform: Platform, serving: int, budget: int) -> list[dict[str, Any]]:
    """Images on which a challenger and who serves disagree, while nobody can tell which is better.

    At most half of the batch: the other half teaches.
    """
    from al_loop.decisions import challengers
    from al_loop.judging import duel_rows

    count = min(platform.settings.gate.duel_labels, budget // 2)
    return duel_rows(platform, serving, challengers(platform, serving), count)


def _different(
    platform: Platform, serving: int, budget: int, room: int, judged: dict[str, str]
) -> list[dict[str, Any]]:
    """Images that differ from what the version that serves answered at first, while an alarm says that there are some.

    They take a share of the batch of their own, `monitoring.drift_share`, and leave some of the room to the strategy.
    """
    from al_loop.monitoring import drift_rows

    count = min(round(budget * platform.settings.monitoring.drift_share), room // 2)
    return drift_rows(platform, serving, count, judged)


def configured_strategy(platform: Platform, wishes: Wishes) -> QueryStrategy:
    """The strategy that is wished for, else of the settings; its own settings go with the name they are for.

    Raises:
        ValueError: there is no such strategy or setting; the message names the nearest one.
    """
    from al_core.strategies.registry import get_strategy

    defaults = platform.settings.selection
    if wishes.strategy is None or wishes.strategy == defaults.strategy:
        return get_strategy(defaults.strategy, **{**defaults.strategy_settings, **wishes.strategy_settings})
    return get_strategy(wishes.strategy, **wishes.strategy_settings)


def _seed_batch(platform: Platform, round_: int, wishes: Wishes, log: Callable[[str], None]) -> Selection:
    """Before there is a model: those that judge are drawn at random from all that nobody was asked about, those that
    teach by coverage, where the encoder has learned something already.
    """
    from al_core.answers import answered
    from al_core.images import decode_stored_image
    from al_core.near_duplicates import near_duplicate_hash
    from al_core.selection import select_seed_batch

    defaults = platform.settings.selection
    asked = {*platform.ledgers.read("selections")["image_id"], *answered(platform.ledgers.read("labels"))}
    uris = {image_id: uri for image_id, uri in platform.images.items() if image_id not in asked}

    def hash_of(image_id: str) -> str:
        uri = uris[image_id]
        return near_duplicate_hash(decode_stored_image(platform.images.read(uri), name=uri))

    embed, note = _seed_embedder(platform, uris, log)
    selection = select_seed_batch(
        uris,
        embed=embed,
        look_at=defaults.seed_pool,
        hash_of=hash_of,
        budget=wishes.budget or defaults.initial_budget,
        near_duplicate_distance=defaults.near_duplicate_distance,
        seed=_seed(wishes, defaults.seed, round_),
        round_=round_,
        reserve=platform.settings.holdout.judges,
        judging_share=platform.settings.holdout.share,
    )
    return replace(selection, details={**selection.details, **note})


def _seed_embedder(
    platform: Platform, uris: dict[str, str], log: Callable[[str], None]
) -> tuple[Callable[[Sequence[str]], tuple[list[str], np.ndarray]] | None, dict[str, str]]:
    """What embeds the images of the first round, None where they are drawn at random; and why, or with what."""
    from al_core.encoders.contract import NoEncoder
    from al_core.learning.contract import LabeledImage
    from al_core.learning.embedding import Embedder

    training, look_at = platform.settings.training, platform.settings.selection.seed_pool
    if not look_at or training.initial_weights == "none":
        return None, {}
    try:
        embedder = Embedder.of_settings(training)
    except NoEncoder as error:
        return None, {"first images": f"drawn at random, for the encoder cannot be had: {error}"}

    def embed(ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
        import numpy as np

        images = [LabeledImage(image_id, uris[image_id], "") for image_id in ids]
        log(f"looking at {len(images):,} images with {training.architecture}, to choose the first ones by coverage")
        chunks, began = [], time.monotonic()
        for chunk in embedder.chunks(images, platform.images.read, platform.embeddings):
            chunks.append(chunk)
            done = sum(len(each.image_ids) + len(each.skipped) for each in chunks)
            left = (time.monotonic() - began) / done * (len(images) - done)
            log(f"{done:,} of {len(images):,} images embedded, {left:.0f} s left")
        rows = [chunk.embeddings for chunk in chunks if chunk.image_ids] or [np.empty((0, embedder.dimension))]
        return [image_id for chunk in chunks for image_id in chunk.image_ids], np.concatenate(rows)

    return embed, {"first images": f"those that teach cover what {training.architecture} tells apart"}


def _seed(wishes: Wishes, default: int, round_: int) -> int:
    """Another seed each round, or the random order would begin at the same pivot every time."""
    return wishes.seed if wishes.seed is not None else default + round_


def stage(
    platform: Platform, round_: int, chosen: pl.DataFrame, log: Callable[[str], None] = lambda line: None
) -> Staged:
    """Copy the images to where people label, and tell the labeling tool, with what the newest model says."""
    from al_loop.prelabeling import refresh_predictions
    from al_resources.image_names import first_names
    from al_resources.labeling.staging import stage_round

    with_own = platform.settings.labeling.staged_names == "own"
    own = first_names(platform.ledgers, set(chosen["image_id"])) if with_own else {}
    staged = stage_round(platform.blobs, platform.images, round_, chosen, own)
    platform.labeling.announce(round_)
    refresh_predictions(platform, log)
    return staged


def picks_version(chosen: pl.DataFrame) -> str:
    """Content hash of the batch: the same images in the same order are the same data."""
    text = "\n".join(chosen.sort("rank")["image_id"])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
