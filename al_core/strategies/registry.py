"""The query strategies by name. A new one is its module and one line here.

A module is imported when its strategy is asked for: whoever only checks a name waits for no numpy.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from al_core.errors import InvalidInput

if TYPE_CHECKING:
    from al_core.strategies.base import QueryStrategy

# name -> module of this package and class
_PLACES = {
    "random": "random_sampling:RandomSampling",
    # uncertainty
    "least_confidence": "least_confidence:LeastConfidence",
    "margin": "margin:Margin",
    "entropy": "entropy:Entropy",
    "bald": "bald:Bald",
    "mean_std": "mean_std:MeanStd",
    "power_least_confidence": "power:PowerLeastConfidence",
    "power_margin": "power:PowerMargin",
    "power_entropy": "power:PowerEntropy",
    "power_bald": "power:PowerBald",
    # diversity
    "k_center_greedy": "k_center_greedy:KCenterGreedy",
    "kmeans": "kmeans:KMeans",
    "typiclust": "typiclust:TypiClust",
    "probcover": "probcover:ProbCover",
    "max_herding": "max_herding:MaxHerding",
    # both
    "badge": "badge:Badge",
    "cluster_margin": "cluster_margin:ClusterMargin",
    "entropy_density": "entropy_density:EntropyDensity",
    "uherding": "uherding:UHerding",
    # imbalance and cost
    "balanced_boundary": "balanced_boundary:BalancedBoundary",
    "class_balanced": "class_balanced:ClassBalanced",
    "cost_aware": "cost_aware:CostAware",
    # whichever of them fits
    "auto": "auto:Auto",
}


class _Strategies(Mapping[str, "type[QueryStrategy]"]):
    """The classes by name, each imported at the first look."""

    def __getitem__(self, name: str) -> type[QueryStrategy]:
        module, _, class_name = _PLACES[name].partition(":")
        found: type[QueryStrategy] = getattr(importlib.import_module(f"al_core.strategies.{module}"), class_name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)

    def __contains__(self, name: object) -> bool:
        return name in _PLACES


STRATEGIES: Mapping[str, type[QueryStrategy]] = _Strategies()
StrategyName = Enum("StrategyName", {name: name for name in _PLACES})  # type: ignore[misc]  # choices in the launchpad


def check_strategy(name: str) -> None:
    """Raises `ValueError` where there is no such strategy; the message names the nearest one."""
    if name not in _PLACES:
        raise InvalidInput(f"no strategy is called {name!r}{_nearest(name, _PLACES)}")


def get_strategy(name: str, **settings: Any) -> QueryStrategy:
    """The strategy of that name with its settings; the setting `base` of a wrapper may be a name, too.

    Raises:
        ValueError: there is no such strategy or setting; the message names the nearest one.
    """
    check_strategy(name)
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
