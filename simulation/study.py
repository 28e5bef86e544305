"""A study: which strategies are compared, on what, how often. Settings only, free of torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from al_core.errors import InvalidInput
from al_core.learning.settings import TrainingSettings
from simulation.annotators import OracleSettings

Start = Literal["warm", "cold", "shrink"]

# what a start changes in the training settings; "shrink" is Ash & Adams' own choice
STARTS: dict[str, dict[str, Any]] = {
    "warm": {"warm_start": True},
    "cold": {"warm_start": False},
    "shrink": {"warm_start": True, "shrink": 0.5, "perturb": 0.1},
}


class PretrainSettings(BaseModel):
    """How the encoder is learned from the pool without labels, see `simulation.pretraining`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=4)
    learning_rate: float = Field(2e-3, gt=0)
    temperature: float = Field(0.2, gt=0, description="of the contrastive loss")
    seed: int = Field(0, ge=0)


JudgedBy = Literal["duels", "holdout"]


class BrakeSettings(BaseModel):
    """What judging costs: the same settings as production's, with the same meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judged_by: JudgedBy = Field("duels", description="or by the holdout alone, as it is often done: see `Brakes`")
    reserve: float = Field(0.2, gt=0, lt=1, description="of all images may judge, and no strategy is offered them")
    share: float = Field(0.25, gt=0, lt=1, description="of the first labels measures")
    control_share: float = Field(0.1, ge=0, le=1, description="random part of each batch, which measures")
    duel_labels: int = Field(20, ge=0, description="images of a batch on which two models disagree")
    tolerance: float = Field(0.01, ge=0, lt=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    class_tolerance: float = Field(0.1, gt=0, le=1)


class Study(BaseModel):
    """Everything that decides the numbers of a study. One run is one strategy, start and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    strategies: tuple[str, ...] = Field(min_length=1)
    starts: tuple[Start, ...] = Field(("warm",), min_length=1)
    seeds: int = Field(5, ge=1, description="runs per strategy; seed s of all strategies is one pair")
    rounds: int = Field(30, ge=1)
    budget: int = Field(50, ge=1, description="labels per round")
    score_sample: int = Field(500, ge=1, description="images scored per round, the candidates of its selection")
    initial: int = Field(200, ge=2, description="labels of the first model")
    seed_pool: int = Field(
        5_000,
        ge=0,
        description="images a frozen encoder looks at to choose them by coverage; 0: at random, like random sampling",
    )
    return_unselected: bool = Field(True, description="scored but unselected images may be scored again")
    test_images: int = Field(500, ge=1)
    imbalance: float = Field(1, ge=1, description="the rarest class of the pool has this many times fewer images")
    control_share: float = Field(0.0, ge=0, le=1, description="random part of each batch; production's is 0.1")
    validation_share: float = Field(0.1, ge=0, lt=1, description="part of the labels that stops and calibrates")
    near_duplicate_distance: int = Field(4, ge=-1, le=128)
    threads: int = Field(1, ge=1, description="of a run on the CPU; its last digits depend on them")
    training: TrainingSettings = TrainingSettings()
    oracle: OracleSettings = OracleSettings()
    pretrain: PretrainSettings | None = None
    deploy: BrakeSettings | None = Field(None, description="play the whole loop, with what judging costs")

    @field_validator("strategies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from al_core.strategies.registry import get_strategy

        for name in names:
            get_strategy(name)
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.budget > self.score_sample:
            raise InvalidInput(
                f"a budget of {self.budget} cannot be chosen from {self.score_sample} scored images; "
                "lower the budget or score more"
            )
        if self.training.frozen and self.training.initial_weights == "none" and self.pretrain is None:
            raise InvalidInput("a frozen encoder needs weights: training.weights, or pretraining on the pool")
        return self

    @property
    def key(self) -> str:
        """Names what decides a single run's numbers: studies may grow by strategies, starts and seeds."""
        without = {"strategies", "starts", "seeds"} | ({"deploy"} if self.deploy is None else set())
        facts = self.model_dump(mode="json", exclude=without)
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=6).hexdigest()

    def runs(self) -> list[Run]:
        """All runs, pairs next to each other: a study that is stopped half-way can be compared."""
        return [
            Run(strategy=strategy, start=start, seed=seed)
            for seed in range(self.seeds)
            for start in self.starts
            for strategy in self.strategies
        ]

    def split_seed(self, run: Run) -> int:
        """What divides pool and test set: an encoder learned on one pool may have seen another's test images."""
        return 0 if self.pretrain else run.seed

    def labels_needed(self) -> int:
        """How many images a run selects in all."""
        return self.initial + self.rounds * self.budget


class Run(BaseModel):
    """One curve: a strategy, the way its models start, and the seed it shares with its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str
    start: Start
    seed: int

    @property
    def name(self) -> str:
        """As a folder."""
        return f"{self.strategy}-{self.start}-{self.seed:03d}"
