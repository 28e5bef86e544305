"""Settings that name something: a strategy, an encoder, a trainer. Whoever loads settings hears of names nobody knows.

Nothing heavy is imported for it: every command loads settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from al_resources.settings.settings import Settings


def unknown_names(settings: Settings) -> Iterator[str]:
    """A sentence for each setting whose name leads nowhere."""
    from al_core.encoders.known_names import check_architecture
    from al_core.learning.trainer_path import check_trainer_path
    from al_core.strategies.registry import check_strategy, get_strategy

    def check_strategy_and_its_settings(name: str) -> None:
        check_strategy(name)
        if settings.selection.strategy_settings:
            get_strategy(name, **settings.selection.strategy_settings)

    checks: list[tuple[str, Any, Callable[[Any], None]]] = [
        ("selection.strategy", settings.selection.strategy, check_strategy_and_its_settings),
        ("training.architecture", settings.training.architecture, check_architecture),
        ("training.trainer", settings.training.trainer, check_trainer_path),
    ]
    for key, value, check in checks:
        try:
            check(value)
        except ValueError as error:
            yield f"{key} = {value!r}: {error}"
