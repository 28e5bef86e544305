"""Who labels: one module a tool, all behind `al_resources.labeling.LabelingProject`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from al_resources.labeling import LabelingProject
    from al_resources.platform import Platform


def labeling_project(platform: Platform) -> LabelingProject:
    """The tool that `labeling.project` names; the others are not imported."""
    settings = platform.settings
    stores = platform.blobs, platform.ledgers
    if settings.labeling.project == "oracle":
        from al_resources.labeling.projects.oracle import OracleLabeling

        return OracleLabeling.from_file(platform.blobs, settings.labeling.oracle_labels)
    if settings.labeling.project == "page":
        from al_resources.labeling.projects.page import PageLabeling

        return PageLabeling(*stores, settings.labeling, auto_release=settings.labeling_page.auto_release)
    if settings.labeling.project == "label_studio":
        from al_resources.labeling.projects.label_studio import LabelStudioLabeling

        return LabelStudioLabeling(*stores, settings.labeling, settings.label_studio, settings.model.name)
    from al_resources.labeling.projects.manual import ManualLabeling

    return ManualLabeling(*stores)
