"""The hourly look at the log, by its automation condition: what came in is scored, drift and accuracy are looked at.

A round looks, too; this is for times in which none opens. Rounds themselves are no matter for conditions: on dynamic
partitions below an unpartitioned asset these would ask for every round again at each new state of the log.
"""

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames, assets_of
from al_assets.prediction_log import prediction_log


def build_hourly_look(loop: LoopNames = THE_LOOP) -> dg.AutomationConditionSensorDefinition:
    """What evaluates the condition; off until somebody switches it on."""
    return dg.AutomationConditionSensorDefinition(
        loop.name("hourly_look"),
        target=assets_of(loop, [prediction_log]),
        minimum_interval_seconds=60,
        description="Materializes prediction_log once an hour: scores what came in, looks at drift and accuracy.",
    )
