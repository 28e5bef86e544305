"""The sensor that hears of labeling exports: blob events from a storage queue instead of a listing of the container.

Receive, request, and delete at the next tick: a message is deleted only when the runs it led to are on record. What
an event names is then handled as the polling sensor does it, under the same run key, so the two can be exchanged.
"""

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_resources.platform import Platform
from al_resources.settings import Settings
from sensors.labeling_exports import build_sensor, came_to_nothing, collect_exports, what_to_run


def build_labeling_export_events_sensor(settings: Settings, loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor that listens."""
    return build_sensor(
        settings,
        "labeling_export_events_sensor",
        "Reads blob events; a new labeling export is merged, trained on and deployed.",
        listen_for_exports,
        loop,
    )


def listen_for_exports(
    context: dg.SensorEvaluationContext, platform: Platform, loop: LoopNames = THE_LOOP
) -> dg.SensorResult:
    """One tick: a run request per new export, or what else there is to say."""
    from al_core.records import utc_now
    from al_resources.labeling.events import EventCursor, listen

    collect_exports(context, platform)
    cursor = EventCursor.parse(context.cursor)
    again, besides = came_to_nothing(context.instance, cursor.requested, loop)
    heard = listen(
        platform.events,
        platform.inbox,
        cursor,
        container=platform.settings.azure.container,
        limit=platform.settings.sensors.exports_per_tick,
        now=utc_now(),
        again=again,
    )
    for reason in heard.poisoned:
        context.log.error(f"a message was moved to the poison queue: {reason}")
    besides += [f"a message cannot be read: {reason}" for reason in heard.unreadable]
    if heard.cursor.backlog:
        besides.append(f"{len(heard.cursor.backlog)} more exports wait for the next tick")
    return what_to_run(context, heard.found, heard.cursor.model_dump_json(), besides, loop)
