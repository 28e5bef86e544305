"""The query strategies by name. A new one is its module and one line here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from enum import Enum
from typing import Any

from al_core.errors import InvalidInput
from al_core.strategies.auto import Auto
from al_core.strategies.badge import Badge
from al_core.strategies.balanced_boundary import BalancedBoundary
from al_core.strategies.bald import Bald
from al_core.strategies.base import QueryStrategy
from al_core.strategies.class_balanced import ClassBalanced
from al_core.strategies.cluster_margin import ClusterMargin
from al_core.strategies.cost_aware import CostAware
from al_core.strategies.entropy import Entropy
from al_core.strategies.entropy_density import EntropyDensity
from al_core.strategies.k_center_greedy import KCenterGreedy
from al_core.strategies.kmeans import KMeans
from al_core.strategies.least_confidence import LeastConfidence
from al_core.strategies.margin import Margin
from al_core.strategies.max_herding import MaxHerding
from al_core.strategies.mean_std import MeanStd
from al_core.strategies.power import PowerBald, PowerEntropy, PowerLeastConfidence, PowerMargin
from al_core.strategies.probcover import ProbCover
from al_core.strategies.random_sampling import RandomSampling
from al_core.strategies.typiclust import TypiClust
from al_core.strategies.uherding import UHerding

STRATEGIES: dict[str, type[QueryStrategy]] = {
    "random": RandomSampling,
    # uncertainty
    "least_confidence": LeastConfidence,
    "margin": Margin,
    "entropy": Entropy,
    "bald": Bald,
    "mean_std": MeanStd,
    "power_least_confidence": PowerLeastConfidence,
    "power_margin": PowerMargin,
    "power_entropy": PowerEntropy,
    "power_bald": PowerBald,
    # diversity
    "k_center_greedy": KCenterGreedy,
    "kmeans": KMeans,
    "typiclust": TypiClust,
    "probcover": ProbCover,
    "max_herding": MaxHerding,
    # both
    "badge": Badge,
    "cluster_margin": ClusterMargin,
    "entropy_density": EntropyDensity,
    "uherding": UHerding,
    # imbalance and cost
    "balanced_boundary": BalancedBoundary,
    "class_balanced": ClassBalanced,
    "cost_aware": CostAware,
    # whichever of them fits
    "auto": Auto,
}

StrategyName = Enum("StrategyName", {name: name for name in STRATEGIES})  # type: ignore[misc]  # choices in the launchpad


def strategy_names() -> list[str]:
    """All names `get_strategy` knows."""
    return list(STRATEGIES)


def get_strategy(name: str, **settings: Any) -> QueryStrategy:
    """The strategy of that name with its settings; the setting `base` of a wrapper may be a name, too.

    Raises:
        ValueError: there is no such strategy or setting; the message names the nearest one.
    """
    if name not in STRATEGIES:
        raise InvalidInput(f"no strategy is called {name!r}{_nearest(name, STRATEGIES)}")
    strategy = STRATEGIES[name]
    known = setting_names(strategy)
    for key in settings:
        if key not in known:
            raise InvalidInput(f"strategy {name} has no setting {key!r}{_nearest(key, known)}")
    if isinstance(settings.get("base"), str):
        settings["base"] = get_strategy(settings["base"])
    return strategy(**settings)


def setting_names(strategy: type[QueryStrategy]) -> list[str]:
    """What the constructor of a strategy takes."""
    return [key for key in inspect.signature(strategy).parameters if strategy.__init__ is not object.__init__]


def _nearest(name: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    options = f"; expected one of {', '.join(valid)}" if valid else ""
    return f"; did you mean {near[0]!r}?{options}" if near else options
