"""The house: who may import whom stands in `pyproject.toml` (import-linter); besides, no files import in a circle."""

from __future__ import annotations

import grimp
import networkx as nx

PACKAGES = (
    "al_core", "al_resources", "al_serving", "al_labeling", "al_loop", "al_assets", "sensors", "simulation", "al_cli",
)  # fmt: skip


def test_no_files_import_in_a_circle() -> None:
    """Not inside of functions either: what needs each other belongs into one file, or into a third."""
    found = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = nx.DiGraph(
        (module, other) for module in found.modules for other in found.find_modules_directly_imported_by(module)
    )
    assert imports.number_of_edges() > 1_000
    assert [sorted(circle) for circle in nx.strongly_connected_components(imports) if len(circle) > 1] == []
