"""Dagster's daemon, which looks after its sensors as often as they ask for it.

Each sensor says how often it looks, but the daemon's loop over all of them rests for five seconds, and nothing sets
that. An export that is delivered and a round that is due would wait for it, some three seconds each.
"""

from __future__ import annotations

import os

from al_resources.settings import CONFIG_VARIABLE, load_settings


def rest_seconds() -> int:
    """Between two rounds of the daemon through its sensors: what the most eager asks for, five at most."""
    from dagster._daemon import sensor

    usual = int(sensor.MIN_INTERVAL_LOOP_TIME)
    if CONFIG_VARIABLE not in os.environ:  # several loops, each with its own settings
        return usual
    sensors = load_settings().sensors
    return min(usual, sensors.export_interval_seconds, sensors.round_interval_seconds)


def main() -> None:
    """`dagster-daemon`, with that rest."""
    from dagster._daemon import cli, sensor

    sensor.MIN_INTERVAL_LOOP_TIME = rest_seconds()
    cli.main()


if __name__ == "__main__":
    main()
