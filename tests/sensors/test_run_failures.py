"""A failed run: one line that says what helps, where the daemon logs it and where `al status` finds it."""

from __future__ import annotations

import dagster as dg
import pytest

from al_core.errors import GiveUp
from al_core.records import SELECTIONS, table_of, utc_now
from al_loop.status import rounds
from al_resources.platform import Platform
from sensors.run_failures import FailedRun, build_run_failure_sensor, failed_run


def of_a_failing_run(error: Exception, instance: dg.DagsterInstance) -> dg.RunFailureSensorContext:
    """The sensor's context after a run of round 3 whose one step raised `error`."""

    @dg.op
    def model_checkpoint() -> None:
        raise error

    @dg.job(name="training_deployment", partitions_def=dg.StaticPartitionsDefinition(["0003"]))
    def training_deployment() -> None:
        model_checkpoint()

    result = training_deployment.execute_in_process(instance=instance, partition_key="0003", raise_on_error=False)
    return dg.build_run_status_sensor_context(
        sensor_name="run_failures",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
    ).for_run_failure()


def composed() -> Exception:
    """As adapters raise it: our own sentence, with what the library said as its cause."""
    try:
        try:
            raise PermissionError("AuthorizationPermissionMismatch")
        except PermissionError as error:
            raise GiveUp("the identity lacks the role Storage Blob Data Contributor on the container") from error
    except GiveUp as error:
        return error


def test_the_line_is_the_sentence_that_was_composed_not_what_a_library_said() -> None:
    with dg.instance_for_test() as instance:
        failed = failed_run(of_a_failing_run(composed(), instance))
    assert failed.line == (
        "training_deployment of round 0003 failed in model_checkpoint: the identity lacks the role Storage Blob Data "
        f"Contributor on the container (run {failed.run_id[:8]})"
    )


@pytest.mark.parametrize("error", [ValueError("a: b"), KeyError("there is no x"), RuntimeError("first\nsecond")])
def test_an_error_without_a_cause_is_told_in_its_own_words(error: Exception) -> None:
    with dg.instance_for_test() as instance:
        reason = failed_run(of_a_failing_run(error, instance)).reason
    assert reason == str(error).splitlines()[0]


def test_a_failed_training_is_no_round_that_waits(platform: Platform) -> None:
    row = {
        "round": 3, "image_id": "0" * 32, "image_uri": "x", "rank": 0, "reason": "seed", "strategy": "random",
        "seed": 0, "selected_at": utc_now(),
    }  # fmt: skip
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, [row]), on=["round", "image_id"])
    assert rounds(platform)[0]["outcome"] == "waiting"
    with dg.instance_for_test() as instance:
        context = of_a_failing_run(composed(), instance)
        for _ in range(2):  # a sensor may be asked twice
            build_run_failure_sensor()(context, platform=platform)
    assert platform.ledgers.read("failures").height == 1
    told = rounds(platform)[0]
    assert told["outcome"] == "failed"
    assert told["failure"]["step"] == "model_checkpoint"
    assert "lacks the role" in told["failure"]["reason"]


def test_a_run_of_no_round_is_named_without_one() -> None:
    assert (
        FailedRun("1234abcdef", "retirement", None, "", "no reason").line
        == "retirement failed: no reason (run 1234abcd)"
    )
