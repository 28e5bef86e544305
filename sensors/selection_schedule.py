"""The schedule that opens the next round of selection, unless there is a reason to wait."""

import dagster as dg

from al_assets.rounds import ROUNDS, open_rounds, round_key
from al_resources.platform import Platform
from al_resources.settings import Settings

SELECTION_JOB = "selection"
TRAINING_JOB = "training_deployment"


def build_selection_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """The schedule, ticking as `selection.cron` says."""

    @dg.schedule(
        name="selection_schedule",
        job_name=SELECTION_JOB,
        cron_schedule=settings.selection.cron,
        execution_timezone="UTC",
        description="Opens the next round: which images are worth a person's time now?",
    )
    def selection_schedule(
        context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.RunRequest | dg.SkipReason:
        return next_round(context, platform)

    return selection_schedule


def next_round(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    """A request for the next round, or the reason to wait."""
    rounds = open_rounds(context.instance)
    unfinished = rounds[-1] if rounds and platform.ledgers.read("selections", round=rounds[-1]).is_empty() else None
    if unfinished is not None and (running := _active_run(context.instance, unfinished)):
        return dg.SkipReason(f"round {unfinished} is being selected by run {running}")
    if reason := _reason_to_wait(context.instance, platform):
        return dg.SkipReason(reason)
    if why := why_another_random_round(platform):
        context.log.info(why)
    if unfinished is not None:  # opened, but its run failed or was never submitted: ask again, under a new key
        number, attempt = unfinished, f"-{context.scheduled_execution_time:%Y%m%dT%H%M%S}"
    else:
        number, attempt = (rounds[-1] + 1 if rounds else 0), ""
        context.instance.add_dynamic_partitions(str(ROUNDS.name), [round_key(number)])
    return dg.RunRequest(
        run_key=f"round-{round_key(number)}{attempt}",
        partition_key=round_key(number),
        tags={"al/round": str(number)},
    )


def why_another_random_round(platform: Platform) -> str | None:
    """Why a round of random images is drawn although some are labeled already; None where it is not."""
    if platform.endpoint.state().serving_version is not None or platform.ledgers.read("labels").is_empty():
        return None
    failed = platform.ledgers.read("failures").filter(job=TRAINING_JOB)
    told = f": {failed['reason'][-1]}" if failed.height else ""
    return f"the labels so far made no model that serves{told}; another random round brings more of them"


def _reason_to_wait(instance: dg.DagsterInstance, platform: Platform) -> str | None:
    limits = platform.settings.selection
    waiting = platform.unlabeled_candidates()
    if waiting > limits.max_unlabeled:
        return (
            f"{waiting} candidates wait for a label, more than selection.max_unlabeled = {limits.max_unlabeled}; label "
            "some, or raise it"
        )
    version = platform.endpoint.state().serving_version
    if version is None:
        if waiting:
            return f"no model yet: the seed round's {waiting} images wait for their labels; label and export them"
        if platform.images.is_empty():
            return "there are no images yet; add some with `al ingest FOLDER`"
        return _reason_to_wait_for_the_first_model(instance, platform)
    eligible = platform.predictions.count_eligible(platform.settings.model.name, version)
    if eligible < limits.min_new_predictions and not (eligible and _an_alarm_opens_it(platform)):
        return (
            f"{eligible} images that model v{version} scored are neither selected nor labeled; "
            f"a round starts at selection.min_new_predictions = {limits.min_new_predictions}"
        )
    return _advice_to_stop(platform) if limits.stop_when_advised else None


def _an_alarm_opens_it(platform: Platform) -> bool:
    """Whether the traffic differs since after the newest round was selected: an alarm opens one round, not many."""
    if not platform.settings.monitoring.opens_round:
        return False
    from al_loop.monitoring import drift_on_record

    state = drift_on_record(platform)
    if not state.alarm or state.look is None or state.look.alarm_since is None:
        return False
    selected = platform.ledgers.read("selections")["selected_at"]
    return not (selected > state.look.alarm_since).any()


def _reason_to_wait_for_the_first_model(instance: dg.DagsterInstance, platform: Platform) -> str | None:
    """Everything that was asked for is answered. Where no training is on its way, more images have to be drawn."""
    from al_core.answers import answered

    labels = platform.ledgers.read("labels")
    if labels.is_empty():
        return None
    if running := _training_on_its_way(instance):
        return f"no model yet: run {running} trains the first one; a round follows when it has ended"
    asked = set(platform.ledgers.read("selections")["image_id"]) | set(answered(labels))
    if all(image_id in asked for image_id in platform.images.ids()):
        return (
            "no model yet, and every image is labeled; what is missing says the newest run of training_deployment. "
            "Add images with `al ingest FOLDER`"
        )
    return None


def _training_on_its_way(instance: dg.DagsterInstance) -> str | None:
    """The id of a run that trains or is about to, a retry that is due included."""
    for run in instance.get_runs(dg.RunsFilter(job_name=TRAINING_JOB), limit=20):
        retried = run.tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in run.tags
        if retried or not run.is_finished:
            return run.run_id[:8]
    return None


def _advice_to_stop(platform: Platform) -> str | None:
    from al_loop.advice import stopping_advice

    advice = stopping_advice(platform)
    return f"{advice.sentence} (selection.stop_when_advised)" if advice.stop else None


def _active_run(instance: dg.DagsterInstance, round_: int) -> str | None:
    """The id of a run that is selecting this round right now."""
    active = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    runs = instance.get_runs(
        dg.RunsFilter(job_name=SELECTION_JOB, statuses=active, tags={"dagster/partition": round_key(round_)}),
        limit=1,
    )
    return runs[0].run_id if runs else None
