"""A platform whose people label on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_page import CLASSES

from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings


@pytest.fixture
def make_platform(tmp_path: Path) -> Callable[..., Platform]:
    def make(classes: tuple[str, ...] = CLASSES, **page: Any) -> Platform:
        labeling = LabelingSettings(project="page", classes=classes)
        return Platform(Settings(home=tmp_path / "home", labeling=labeling, labeling_page=page))

    return make
