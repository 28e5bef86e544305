"""The query strategies by name. A new one is its module and one line here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

from al_core.strategies.base import QueryStrategy
from al_core.strategies.entropy import Entropy
from al_core.strategies.least_confidence import LeastConfidence
from al_core.strategies.margin import Margin
from al_core.strategies.random_sampling import RandomSampling

STRATEGIES: dict[str, type[QueryStrategy]] = {
    "random": RandomSampling,
    "least_confidence": LeastConfidence,
    "margin": Margin,
    "entropy": Entropy,
}


def strategy_names() -> list[str]:
    """All names `get_strategy` knows, the simplest strategies first."""
    return list(STRATEGIES)


def get_strategy(name: str, **settings: object) -> QueryStrategy:
    """The strategy of that name with its settings.

    Raises:
        ValueError: there is no such strategy or setting; the message names the nearest one.
    """
    if name not in STRATEGIES:
        raise ValueError(f"no strategy is called {name!r}{_nearest(name, STRATEGIES)}")
    strategy = STRATEGIES[name]
    known = setting_names(strategy)
    for key in settings:
        if key not in known:
            raise ValueError(f"strategy {name} has no setting {key!r}{_nearest(key, known)}")
    return strategy(**settings)


def setting_names(strategy: type[QueryStrategy]) -> list[str]:
    """What the constructor of a strategy takes."""
    return [key for key in inspect.signature(strategy).parameters if strategy.__init__ is not object.__init__]


def _nearest(name: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    options = f"; expected one of {', '.join(valid)}" if valid else ""
    return f"; did you mean {near[0]!r}?{options}" if near else options
