"""Who labels: one module a tool, all behind `al_resources.labeling.LabelingProject`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from al_resources.labeling import LabelingProject
    from al_resources.platform import Platform


def labeling_project(platform: Platform) -> LabelingProject:
    """The tool that `labeling.project` names."""
    from al_resources.labeling.projects.label_studio import LabelStudioLabeling
    from al_resources.labeling.projects.manual import ManualLabeling
    from al_resources.labeling.projects.oracle import OracleLabeling
    from al_resources.labeling.projects.page import PageLabeling

    if platform.settings.labeling.project == "oracle":
        return OracleLabeling.from_file(platform.blobs, platform.settings.labeling.oracle_labels)
    if platform.settings.labeling.project == "page":
        auto_release = platform.settings.labeling_page.auto_release
        return PageLabeling(platform.blobs, platform.ledgers, platform.settings.labeling, auto_release=auto_release)
    if platform.settings.labeling.project == "label_studio":
        settings = platform.settings
        model = settings.model.name
        return LabelStudioLabeling(platform.blobs, platform.ledgers, settings.labeling, settings.label_studio, model)
    return ManualLabeling(platform.blobs, platform.ledgers)
