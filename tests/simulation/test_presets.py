"""What a study's training is like where nobody says so."""

from __future__ import annotations

import pytest

from al_core.learning.settings import TrainingSettings
from simulation.job import SimulationConfig, study_of
from simulation.presets import DATA_DEFAULTS, default_start, training_defaults


@pytest.mark.parametrize("encoder", ["from scratch", "learned", "frozen"])
@pytest.mark.parametrize("data", [*DATA_DEFAULTS, "elsewhere"])
def test_every_default_is_a_setting_that_trainers_know(data, encoder):
    assert TrainingSettings(**training_defaults(f"{data}:somewhere", encoder))


def test_a_network_that_starts_from_nothing_is_shrunk_before_it_goes_on_with_cifar10():
    assert default_start("cifar10:folder") == "shrink"
    assert default_start("digits") == "warm"


@pytest.mark.parametrize("encoder", ["learned", "frozen"])
def test_an_encoder_that_has_learned_something_is_kept_as_it_is(encoder):
    assert default_start("cifar10:folder", encoder) == "warm"


def test_the_job_takes_the_defaults_of_the_command():
    study = study_of(SimulationConfig(data="cifar10:folder"))
    assert study.starts == ("shrink",)
    assert study.training == TrainingSettings(**training_defaults("cifar10:folder"))
