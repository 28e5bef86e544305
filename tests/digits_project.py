"""The settings of a small project on handwritten digits, for tests that start whole processes on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIGITS: dict[str, dict[str, Any]] = {
    "labeling": {"classes": [str(digit) for digit in range(10)]},
    "holdout": {"share": 0.5},
    "training": {"architecture": "small_cnn", "image_size": 16, "channels": 1},
    "deployment": {"watch_seconds": 0.2},
}


def digits_toml(**sections: dict[str, Any]) -> str:
    """An `al.toml` whose home is `data` beside it; what is given stands over what all have."""
    merged = {name: DIGITS.get(name, {}) | sections.get(name, {}) for name in DIGITS | sections}
    lines = ['home = "data"']
    for name, settings in merged.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def oracle(folder: Path) -> dict[str, str]:
    """The section `labeling` of a project below `folder` that known labels answer."""
    return {"project": "oracle", "oracle_labels": (folder / "data/oracle/labels.json").as_posix()}
