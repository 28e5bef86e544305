"""What is watched of the traffic: does it look as it did, and is it still answered right? Checks that warn."""

from typing import Any

import dagster as dg

from al_assets import views
from al_assets.loop_names import loop_check
from al_assets.prediction_log import prediction_log
from al_resources.platform import Platform


@loop_check(
    asset=prediction_log,
    description="The traffic looks as it did when the serving version began: no alarm of drift stands.",
)
def traffic_looks_as_before(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """A look that is put on record; the figures beside the alarm say what changed, and raise none of their own."""
    from al_loop.monitoring import drift

    state = drift(platform)
    metadata: dict[str, Any] = {"serving version": views.optional_int(state.version)}
    if state.quiet_days:
        metadata["days without traffic"] = state.quiet_days
    if state.look is not None and state.version is not None:
        metadata |= views.drift_figures(state.look) | views.drift_plots(platform, state.version, state.look)
        if state.alarm:
            metadata |= views.different_images(platform, state.version)
    return dg.AssetCheckResult(
        passed=not state.alarm,
        severity=dg.AssetCheckSeverity.WARN,
        description=state.sentence,
        metadata=metadata,
    )


@loop_check(
    asset=prediction_log,
    description="The serving version is as often right on its traffic as when it was judged, by its control slices.",
)
def accuracy_holds(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """Warns where it is surely lower, however often somebody looks; a guess without labels is drawn beside it."""
    from al_loop.monitoring import accuracy
    from al_resources.delta_tables import one_look

    with one_look():
        state = accuracy(platform)
    metadata: dict[str, Any] = {"serving version": views.optional_int(state.version)}
    if (newest := state.newest) is not None:
        metadata |= {
            "accuracy on the traffic": str(newest.accuracy),
            "labeled control images": newest.labels,
            "right of these": views.rounded(newest.from_labels_alone),
            "guessed without labels": "the version was never evaluated"
            if newest.without_labels is None
            else views.rounded(newest.without_labels),
            "when it was judged": str(state.when_judged or "never"),
        }
    if state.points:
        metadata["accuracy over time"] = views.accuracy_plot(platform, state)
    return dg.AssetCheckResult(
        passed=not state.surely_lower,
        severity=dg.AssetCheckSeverity.WARN,
        description=state.sentence,
        metadata=metadata,
    )


MONITORING_CHECKS = [traffic_looks_as_before, accuracy_holds]
