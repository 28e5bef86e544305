"""Lineage: from a deployment to the labels, selections and predictions behind it, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_core.records import ModelManifest
    from al_resources.platform import Platform


class NotFound(ActiveLearningError):
    """There is nothing by that name; the message says what there is."""


def trace(platform: Platform, reference: str) -> dict[str, Any]:
    """Trace an image (its id, the beginning of it, or a name under which it came), `v7` (a model version), a
    deployment id, or `latest`.

    Raises:
        NotFound: nothing goes by that name.
    """
    if reference == "latest":
        return trace_deployment(platform, None)
    if reference.removeprefix("v").isdigit() and len(reference) < 8:
        return trace_model(platform, int(reference.removeprefix("v")))
    if re.fullmatch(r"[0-9a-fA-F]+(-[0-9a-fA-F]+){4}", reference):
        return _trace_uuid(platform, reference)
    return trace_image(platform, reference)


def _trace_uuid(platform: Platform, reference: str) -> dict[str, Any]:
    """A deployment, or an image whose id or name is written like one."""
    try:
        return trace_deployment(platform, reference)
    except NotFound:
        try:
            return trace_image(platform, reference)
        except NotFound:
            pass
        raise


def trace_deployment(platform: Platform, deployment_id: str | None) -> dict[str, Any]:
    """The deployment, its model with everything behind it, and one labeled image in full as an example."""
    deployments = platform.ledgers.read("deployments")
    found = deployments.tail(1) if deployment_id is None else deployments.filter(deployment_id=deployment_id)
    if found.is_empty():
        known = ", ".join(deployments["deployment_id"].tail(5)) or "none yet"
        raise NotFound(f"no deployment {deployment_id or 'was made yet'}; the latest are: {known}")
    row = found.to_dicts()[0]
    return {"deployment": _plain(row), **trace_model(platform, row["model_version"])}


def trace_model(platform: Platform, version: int) -> dict[str, Any]:
    """A model version: parents, dataset, rounds, labels by round and reason, and one labeled image in full."""
    try:
        manifest = platform.registry.manifest(version)
    except KeyError as error:
        raise NotFound(str(error)) from error
    dataset = platform.datasets.of_version(manifest.dataset_version)
    rows = dataset.rows
    by_round = rows.group_by("round", "reason", "split").len("images").sort("round", "reason", "split")
    deployed = platform.ledgers.read("deployments").filter(model_version=version)
    chosen = rows.filter(split="train", reason="strategy").sort("round", "image_id").tail(1)
    example = chosen if chosen.height else rows.sort("round", "image_id").tail(1)
    return {
        "model": _model(manifest),
        "parents": [f"v{parent}" for parent in _ancestors(platform, manifest)],
        "dataset": dataset.manifest.model_dump(mode="json"),
        "rounds": sorted(rows["round"].unique().to_list()),
        "images_by_round": by_round.to_dicts(),
        "deployments": [_plain(row) for row in deployed.to_dicts()],
        "decisions": _decisions(platform, version),
        "example": trace_image(platform, example["image_id"][0]) if example.height else None,
    }


def _decisions(platform: Platform, version: int) -> list[dict[str, Any]]:
    """What the loop and people decided about this version: to let it serve, to keep it back, to go back from it."""
    import polars as pl

    rows = platform.ledgers.read("decisions")
    about = rows.filter((pl.col("model_version") == version) | (pl.col("against_version") == version))
    shown = ["action", "model_version", "against_version", "round", "person", "reason", "decided_at"]
    return [_plain(row) for row in about.select(shown).to_dicts()]


def trace_image(platform: Platform, reference: str) -> dict[str, Any]:
    """An image: its names, predictions, selection, labels with their exports, and the models trained on it."""
    selections = platform.ledgers.read("selections")
    labels = platform.ledgers.read("labels")
    full = _full_id(platform, reference, selections["image_id"].to_list() + labels["image_id"].to_list())
    names = platform.ledgers.read("image_names", image_id=full)["name"].to_list()
    predictions = platform.predictions.rows_of(
        [full],
        ["prediction_id", "model_version", "predicted_label", "confidence", "margin", "entropy", "logged_at"],
    ).to_pylist()
    own_labels = labels.filter(image_id=full).to_dicts()
    exports = platform.ledgers.read("exports")
    ids = {row["export_id"] for row in own_labels}
    own_exports = [row for row in exports.to_dicts() if row["export_id"] in ids]
    selection = selections.filter(image_id=full).to_dicts()
    chosen_on = {row["prediction_id"] for row in selection}
    if not predictions and not selection and not own_labels and not names:
        raise NotFound(f"image {reference} was never scored, selected or labeled")
    return {
        "image": full,
        "names": names,
        "predictions": [_plain(row) | {"chosen_on": row["prediction_id"] in chosen_on} for row in predictions],
        "selections": [_plain(row) for row in selection],
        "labels": [_plain(row) for row in own_labels],
        "exports": [_plain(row) for row in own_exports],
        "datasets": _datasets_with(platform, full),
    }


def image_id_of(platform: Platform, reference: str) -> str:
    """The image that an id, the beginning of one or a name means. Raises `NotFound`."""
    selections, labels = platform.ledgers.read("selections"), platform.ledgers.read("labels")
    return _full_id(platform, reference, selections["image_id"].to_list() + labels["image_id"].to_list())


def _full_id(platform: Platform, reference: str, known: list[str]) -> str:
    from al_resources.image_names import own_names
    from al_resources.labeling.names import ImageNames

    beginning = reference.lower()
    if re.fullmatch("[0-9a-f]{32}", beginning):
        return beginning
    matches = sorted({image_id for image_id in known if image_id.startswith(beginning)})
    if len(matches) == 1:
        return matches[0]
    named = ImageNames(
        lambda ids: {one for one in ids if one in known or platform.images.exists(one)},
        lambda: own_names(platform.ledgers),
    )
    match = named.find(reference)
    if match.image_id is None:
        several = f"; {len(matches)} selected or labeled images begin with it" if matches else ""
        raise NotFound(
            f"{reference!r} is no model version (v7), deployment id or image id{several}; as a name: {match.problem}"
        )
    return match.image_id


def _datasets_with(platform: Platform, image_id: str) -> list[dict[str, Any]]:
    """The dataset versions that hold the image, its split there, and the models made of them."""
    models: dict[str, list[str]] = {}
    for version in platform.registry.versions():
        models.setdefault(platform.registry.manifest(version).dataset_version, []).append(f"v{version}")
    found = []
    for manifest in platform.datasets.manifests():
        rows = platform.datasets.of_version(manifest.version).rows.filter(image_id=image_id)
        if rows.height:
            found.append(
                {
                    "version": manifest.version,
                    "split": rows["split"][0],
                    "models": models.get(manifest.version, []),
                }
            )
    return found


def _ancestors(platform: Platform, manifest: ModelManifest) -> list[int]:
    chain = []
    parent = manifest.parent_version
    while parent is not None:
        chain.append(parent)
        parent = platform.registry.manifest(parent).parent_version
    return chain


def _model(manifest: ModelManifest) -> dict[str, Any]:
    shown = manifest.model_dump(mode="json", exclude={"training_log", "training_settings"})
    return shown | {"metrics": {name: str(interval) for name, interval in manifest.metrics.items()}}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON values only: times as ISO text."""
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}
