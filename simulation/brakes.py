"""The loop's brakes in a simulation: reserve, control slice, duels and gate, by the code that decides in production.

A model's own curve leaves out what judging costs. With brakes, some of the labels judge and do not teach, and a model
serves only once it has passed: what a study reports is the deployed model's accuracy against all labels paid.

What it is compared with is the usual way, `judged_by = "holdout"`: no duels; the newest model passes if it is more
often right than who serves on the labeled holdout, by a sign test; and until then who serves goes on asking.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from al_core.judging.contest import Verdict, challengers, duels, who_asks, who_takes_over, whom_to_judge
from al_core.judging.duels import PAIRING
from al_core.judging.gate import Costs, Rules, decide, first_model
from al_core.judging.truth import Reserve
from al_core.records import GateVerdict
from al_loop.judging import truth_of

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.judging.gate import Truth
    from simulation.study import BrakeSettings

_COSTS = Costs()  # no clock and no file size decides in a simulation
Answer = Callable[[int, Sequence[str]], list[str]]


class Brakes:
    """Who serves in a run. A model goes by the round it was trained in.

    `answer` says what the model of a round predicts for some images; `hashes` are those of near-duplicates.
    """

    def __init__(
        self, settings: BrakeSettings, seed: int, answer: Answer, hashes: Mapping[str, str | None], pool: Sequence[str]
    ) -> None:
        self.settings = settings
        self.reserve = Reserve(settings.reserve, f"simulation {seed}")
        self.serving: int | None = None
        self._answer, self._hashes = answer, hashes
        self._reserved = self.reserve.among(sorted(pool))
        self._seen: dict[str, int] = {}  # reserved image -> the round in which it was scored first
        self._pairs: dict[tuple[int, int], pl.DataFrame] = {}
        self._taken: dict[tuple[int, int | None, str, int], GateVerdict] = {}

    def saw(self, round_: int, scored: Collection[str]) -> None:
        """These images were scored in this round."""
        for image_id in self.reserve.among(list(scored)):
            self._seen.setdefault(image_id, round_)

    def duels(self, newest: int, dataset: Dataset, known: Collection[str], budget: int) -> list[dict[str, Any]]:
        """Rows of the next batch on which a challenger and the one that serves disagree, while that is open."""
        count = min(self.settings.duel_labels, budget // 2)
        if self.serving is None or self.settings.judged_by == "holdout":
            return []
        challenger = whom_to_judge(self._challengers(newest), self._verdicts(dataset, known))
        if challenger is None:
            return []
        pairing = self._pairing(challenger, self.serving)
        rows = duels(pairing, truth_of(dataset).holdout, self.reserve, known=known, count=count)
        versions = {"model_version": challenger + 1, "against_version": self.serving + 1}
        return [row | versions for row in rows]

    def decide(self, newest: int, dataset: Dataset, known: Collection[str]) -> None:
        """The newest challenger that is better serves from now on."""
        better = who_takes_over(self._challengers(newest), self._verdicts(dataset, known))
        self.serving = self.serving if better is None else better

    def asking(self, newest: int, dataset: Dataset, known: Collection[str]) -> int:
        """The round of the newest model that is not proven worse than who serves."""
        if self.serving is None:
            return newest
        if self.settings.judged_by == "holdout":
            return self.serving
        return who_asks(self._challengers(newest), self.serving, self._verdicts(dataset, known))

    def _challengers(self, newest: int) -> list[int]:
        candidates = challengers(range(newest + 1), self.serving)
        return candidates[:1] if self.settings.judged_by == "holdout" else candidates

    def _verdicts(self, dataset: Dataset, known: Collection[str]) -> Verdict:
        def verdict(challenger: int) -> GateVerdict:
            """Taken once of what is known: a round asks for it several times."""
            rests_on = challenger, self.serving, dataset.manifest.version, len(known)
            if rests_on not in self._taken:
                self._taken[rests_on] = self._verdict(challenger, dataset, known)
            return self._taken[rests_on]

        return verdict

    def _verdict(self, challenger: int, dataset: Dataset, known: Collection[str]) -> GateVerdict:
        truth, rules = truth_of(dataset), self._rules
        if self.serving is None:
            held_out = sorted(truth.holdout)
            predicted = self._answer(challenger, held_out) if held_out else []
            right = sum(answer == truth.labels[one] for one, answer in zip(held_out, predicted, strict=True))
            return first_model(right, len(held_out), rules, truth, _COSTS)
        if self.settings.judged_by == "holdout":
            return self._by_holdout(challenger, self.serving, truth)
        return decide(
            self._pairing(challenger, self.serving),
            truth,
            answered=known,
            reserve=self.reserve,
            champion_version=self.serving,
            rules=rules,
            costs=_COSTS,
        )

    def _by_holdout(self, challenger: int, champion: int, truth: Truth) -> GateVerdict:
        """A sign test on the labeled holdout: of the images that only one of the two has right."""
        from scipy.stats import binomtest  # type: ignore[import-untyped]

        held_out = sorted(truth.holdout)
        ours, theirs = (
            [answer == truth.labels[one] for one, answer in zip(held_out, self._answer(model, held_out), strict=True)]
            for model in (challenger, champion)
        )
        won = sum(mine and not other for mine, other in zip(ours, theirs, strict=True))
        lost = sum(other and not mine for mine, other in zip(ours, theirs, strict=True))
        p_value = binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1.0
        passed = p_value <= 1 - self.settings.confidence
        return GateVerdict(
            passed=passed,
            outcome="better" if passed else "open",
            reason=f"won {won}, lost {lost} of {len(held_out)} holdout images, p = {p_value:.2g}",
            champion_version=champion,
            difference=None,
            tolerance=0,
            images=len(held_out),
            holdout=truth.version,
            won=won,
            lost=lost,
        )

    def _pairing(self, challenger: int, champion: int) -> pl.DataFrame:
        """Both models' answers to the reserved images that were scored by the challenger's round."""
        if (challenger, champion) not in self._pairs:
            ids = [image_id for image_id in self._reserved if self._seen.get(image_id, challenger + 1) <= challenger]
            answers = [self._answer(model, ids) if ids else [] for model in (champion, challenger)]
            rows = [(one, one, self._hashes[one], *both) for one, *both in zip(ids, *answers, strict=True)]
            self._pairs[challenger, champion] = pl.DataFrame(rows, schema=PAIRING, orient="row")
        return self._pairs[challenger, champion]

    @property
    def _rules(self) -> Rules:
        one = self.settings
        return Rules(one.tolerance, one.confidence, one.class_tolerance)
