"""`selected_candidates`: the few images of a round that are worth a person's time, staged for labeling."""

from typing import Any

import dagster as dg
from pydantic import Field

from al_assets import columns, views
from al_assets.failures import told_once
from al_assets.loop_names import loop_asset
from al_assets.rounds import round_of_run
from al_core.strategies.registry import StrategyName
from al_loop.selecting import Wishes, choose, picks_version, stage
from al_resources.platform import Platform


class SelectionConfig(dg.Config):
    """How this round is selected; what is left empty comes from the settings."""

    strategy: StrategyName | None = Field(None, description="query strategy, see `al strategies`")
    strategy_settings: dict[str, Any] = Field({}, description="settings of that strategy, like beta or base")
    budget: int | None = Field(None, ge=1, description="images to choose")
    control_share: float | None = Field(None, ge=0, le=1, description="share of the budget drawn at random")
    seed: int | None = Field(None, ge=0, description="the same seed on the same log chooses the same images")
    reselect: bool = Field(False, description="of a round that is selected: choose anew what nobody has answered yet")

    def wishes(self) -> Wishes:
        """The same, for those who know no Dagster."""
        strategy = None if self.strategy is None else self.strategy.value
        return Wishes(strategy, self.strategy_settings, self.budget, self.control_share, self.seed, self.reselect)


@loop_asset(
    after="prediction_log",
    kinds={"python", "delta"},
    columns=columns.schema(columns.SELECTIONS),
    pool="selection",
    code_version="1",
)
def selected_candidates(
    context: dg.AssetExecutionContext, config: SelectionConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """The batch of one round: the few images that are worth a person's time now, and why each of them.

    **What was chosen, why, and how does it differ from random?** The contact sheet shows the images, the most wanted
    first; the table beside it compares the strategy's picks with a random sample of the same log. Besides them a batch
    holds a random control slice, which measures, and duels, which tell two versions apart.

    A round is selected once: running it again stages the same images and says so. In the launchpad, `strategy` and
    `reselect: true` choose anew what nobody has answered yet.
    """
    from al_loop.batch_facts import against_random

    round_ = round_of_run(context)
    with told_once():
        chosen, facts = choose(platform, round_, config.wishes(), context.log.info)
    staged = stage(platform, round_, chosen, context.log.info)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(picks_version(chosen)),
        metadata={
            **{name: facts.pop(name) for name in ("selected before", "selected anew") if name in facts},
            **views.labeling_page(platform, round_),
            "dagster/row_count": chosen.height,
            "why": views.why_chosen(chosen),
            "contact sheet": views.contact_sheet(platform, round_, chosen),
            "against random": views.table_or_words(
                against_random(platform, chosen), "chance alone chose, or the version that chose has no traffic yet"
            ),
            "by reason": views.table(views.score_summary(chosen)),
            "asked by version": views.optional_int(chosen["model_version"][0] if chosen.height else None),
            **views.labeling_progress(platform),
            **({"missing images": dg.MetadataValue.json(staged.missing)} if staged.missing else {}),
            **facts,
            "seed": int(chosen["seed"][0]) if chosen.height else 0,
            "staged at": views.place(platform, staged.folder),
        },
    )
