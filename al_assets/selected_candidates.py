"""`selected_candidates`: the few images of a round that are worth a person's time, staged for labeling."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from al_assets import views
from al_assets.prediction_log import prediction_log
from al_assets.rounds import ROUNDS
from al_core.strategies.registry import StrategyName
from al_resources.platform import Platform

if TYPE_CHECKING:
    import polars as pl

    from al_core.selection import Selection
    from al_core.strategies.base import QueryStrategy
    from al_resources.labeling.staging import Staged


class SelectionConfig(dg.Config):
    """How this round is selected; what is left empty comes from the settings."""

    strategy: StrategyName | None = Field(None, description="query strategy, see `al strategies`")
    strategy_settings: dict[str, Any] = Field({}, description="settings of that strategy, like beta or base")
    budget: int | None = Field(None, ge=1, description="images to choose")
    control_share: float | None = Field(None, ge=0, le=1, description="share of the budget drawn at random")
    seed: int | None = Field(None, ge=0, description="the same seed on the same log chooses the same images")


@dg.asset(
    deps=[prediction_log],
    partitions_def=ROUNDS,
    group_name="active_learning",
    kinds={"python", "delta"},
    owners=["team:active-learning"],
    pool="selection",
    code_version="1",
)
def selected_candidates(
    context: dg.AssetExecutionContext, config: SelectionConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """The batch of one round: strategy picks and a random control slice, each with its provenance.

    A round is selected once. Running it again stages the same images again and changes nothing.
    """
    round_ = int(context.partition_key)
    chosen, facts = choose(platform, round_, config, context.log.info)
    staged = stage(platform, round_, chosen)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(picks_version(chosen)),
        metadata={
            "dagster/row_count": chosen.height,
            "contact sheet": views.contact_sheet(platform, round_, chosen),
            "strategy": ", ".join(chosen["strategy"].unique().sort()),
            "reasons": views.table(chosen.group_by("reason").len("images").sort("reason")),
            "scores by reason": views.table(views.score_summary(chosen)),
            "model version": views.optional_int(chosen["model_version"][0] if chosen.height else None),
            "seed": int(chosen["seed"][0]) if chosen.height else 0,
            "staged at": dg.MetadataValue.url(platform.blobs.url(staged.folder)),
            **views.labeling_progress(platform),
            **({"missing images": dg.MetadataValue.json(staged.missing)} if staged.missing else {}),
            **facts,
        },
    )


def choose(
    platform: Platform, round_: int, config: SelectionConfig, log: Callable[[str], None]
) -> tuple["pl.DataFrame", dict[str, Any]]:
    """The round's rows of the selections ledger, made now or earlier, and facts about the choice."""
    recorded = platform.ledgers.read("selections", round=round_)
    if recorded.height:
        log(f"round {round_} was selected before: its {recorded.height} images are staged again")
        return recorded.sort("rank"), {}
    version = platform.endpoint.state().serving_version
    selection = _seed_batch(platform, round_, config) if version is None else _batch(platform, round_, version, config)
    if selection.table.num_rows == 0:
        raise dg.Failure(
            f"round {round_}: nothing to select. Every image that model v{version} scored is selected or labeled "
            "already; send it more traffic, or score a folder with `al score FOLDER`",
            allow_retries=False,
        )
    platform.ledgers.insert_new("selections", selection.table, on=["round", "image_id"])
    return platform.ledgers.read("selections", round=round_).sort("rank"), selection.facts


def preview(platform: Platform, config: SelectionConfig) -> tuple["pl.DataFrame", dict[str, Any]]:
    """What the next round would choose now, and facts about the choice; nothing is recorded."""
    import polars as pl

    round_ = 1 + max(platform.ledgers.read("selections")["round"].to_list(), default=-1)
    version = platform.endpoint.state().serving_version
    selection = _seed_batch(platform, round_, config) if version is None else _batch(platform, round_, version, config)
    return pl.DataFrame(selection.table).sort("rank"), selection.facts


def _batch(platform: Platform, round_: int, version: int, config: SelectionConfig) -> "Selection":
    from al_assets.selection_inputs import SelectionInputs
    from al_core.selection import select_batch
    from al_resources.prediction_store.candidates import Candidates

    defaults = platform.settings.selection
    inputs = SelectionInputs(platform, version)
    strategy = inputs.prepare(configured_strategy(platform, config))
    return select_batch(
        Candidates(platform.predictions, platform.settings.model.name, version),
        strategy=strategy,
        budget=config.budget or defaults.budget,
        control_share=defaults.control_share if config.control_share is None else config.control_share,
        near_duplicate_distance=defaults.near_duplicate_distance,
        seed=_seed(config, defaults.seed, round_),
        round_=round_,
        model_version=version,
        pool_limit=defaults.pool_limit,
        labeled=inputs.labeled(strategy),
        committee=inputs.committee,
    )


def configured_strategy(platform: Platform, config: SelectionConfig) -> "QueryStrategy":
    """The strategy of the run config, else of the settings; its own settings go with the name they are for.

    Raises:
        ValueError: there is no such strategy or setting; the message names the nearest one.
    """
    from al_core.strategies.registry import get_strategy

    defaults = platform.settings.selection
    if config.strategy is None or config.strategy.value == defaults.strategy:
        return get_strategy(defaults.strategy, **{**defaults.strategy_settings, **config.strategy_settings})
    return get_strategy(config.strategy.value, **config.strategy_settings)


def _seed_batch(platform: Platform, round_: int, config: SelectionConfig) -> "Selection":
    """Before there is a model, images are drawn at random from the whole image store."""
    from al_core.images import decode_image, near_duplicate_hash
    from al_core.selection import select_seed_batch

    defaults = platform.settings.selection
    uris = dict(platform.images.items())

    def hash_of(image_id: str) -> str:
        uri = uris[image_id]
        limit = platform.settings.serving.max_image_pixels
        return near_duplicate_hash(decode_image(platform.images.read(uri), name=uri, max_pixels=limit))

    return select_seed_batch(
        uris,
        hash_of=hash_of,
        budget=config.budget or defaults.initial_budget,
        near_duplicate_distance=defaults.near_duplicate_distance,
        seed=_seed(config, defaults.seed, round_),
        round_=round_,
    )


def _seed(config: SelectionConfig, default: int, round_: int) -> int:
    """Another seed each round, or the random order would begin at the same pivot every time."""
    return config.seed if config.seed is not None else default + round_


def stage(platform: Platform, round_: int, chosen: "pl.DataFrame") -> "Staged":
    """Copy the images to where people label, and tell the labeling tool."""
    from al_resources.labeling.staging import stage_round

    staged = stage_round(platform.blobs, platform.images, round_, chosen)
    platform.labeling.announce(round_)
    return staged


def picks_version(chosen: "pl.DataFrame") -> str:
    """Content hash of the batch: the same images in the same order are the same data."""
    text = "\n".join(chosen.sort("rank")["image_id"])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
