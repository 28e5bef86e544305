"""`al doctor`: is everything there, and which settings are in force?"""

from __future__ import annotations

import importlib.metadata
import os
import platform as machine
import shutil
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from al_cli.console import console, escape, json_option, print_json
from al_resources.profiles import Profile, profile_of
from al_resources.settings import Settings, SettingsError, config_file, load_settings, setting_sources

PACKAGES = ("dagster", "dagster-webserver", "torch", "torchvision", "polars", "deltalake", "pandas")
LABEL_STUDIO_SECONDS = 5.0


@click.command()
@click.option("--check", "claims", is_flag=True, help="Check what the loop claims against all ledgers and stores, too.")
@json_option
def doctor(claims: bool, as_json: bool) -> None:
    """Check the installation and print every setting with its source.

    Exit code 1 where something that the profile needs is missing, or a claim does not hold.
    """
    settings = load_settings()
    checks = run_checks(settings)
    if claims:
        checks += check_records(settings)
    rows = setting_sources(settings)
    if as_json:
        print_json(
            {
                "checks": checks,
                "settings": [{"key": key, "value": value, "source": source} for key, value, source in rows],
            }
        )
    else:
        _print(checks, rows)
    if not all(check["ok"] for check in checks):
        raise SystemExit(1)


def run_checks(settings: Settings) -> list[dict[str, Any]]:
    """Each check as {name, ok, detail}."""
    profile = profile_of(settings)
    return [
        _check("python", True, machine.python_version()),
        *(_package(name) for name in PACKAGES),
        *(_package(name, extra="[azure]") for name in profile.packages),
        _check("settings file", True, str(config_file()) if config_file().is_file() else "none, defaults apply"),
        _home(settings.home),
        _dagster_home(),
        _labeling(settings),
        *_services(settings, profile),
    ]


def check_records(settings: Settings) -> list[dict[str, Any]]:
    """Each claim of the loop as {name, ok, detail}."""
    from al_loop.claims import check_claims
    from al_resources.platform import Platform

    return [
        _check(claim.claim, claim.holds, "; ".join(claim.contradictions) or "it holds")
        for claim in check_claims(Platform(settings))
    ]


def _services(settings: Settings, profile: Profile) -> list[dict[str, Any]]:
    """Every address that the profile depends on, asked."""
    if not all(_installed(name) for name in profile.packages):
        return []
    try:
        profile.check(settings)  # complains of addresses that are not set
        findings = profile.findings(settings)
    except SettingsError as error:
        return [_check(settings.profile, False, str(error))]
    return [_check(found.name, found.outcome == "ok", found.detail) for found in findings]


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _package(name: str, extra: str = "") -> dict[str, Any]:
    if _installed(name):
        return _check(name, True, importlib.metadata.version(name))
    return _check(name, False, f"not installed; pip install 'active-learning-platform{extra}'")


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _home(home: Path) -> dict[str, Any]:
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return _check("home", False, f"{nearest} is not writable; set home or AL_HOME to a folder of yours")
    free = shutil.disk_usage(nearest).free
    return _check("home", free > 1 << 30, f"{home}, {free / (1 << 30):.1f} GiB free")


def _dagster_home() -> dict[str, Any]:
    folder = os.environ.get("DAGSTER_HOME")
    if not folder:
        return _check("DAGSTER_HOME", True, "not set; `al ui` sets it, `dagster dev` keeps nothing without it")
    found = (Path(folder) / "dagster.yaml").is_file()
    return _check("DAGSTER_HOME", found, folder if found else f"{folder} has no dagster.yaml; `al init` writes one")


def _labeling(settings: Settings) -> dict[str, Any]:
    if settings.labeling.project == "label_studio":
        return _label_studio(settings)
    if settings.labeling.project != "oracle":
        return _check("labeling", True, f"{settings.labeling.project}: exports go to labeling/exports")
    file = Path(settings.labeling.oracle_labels)
    found = file.is_file()
    return _check("labeling", found, f"oracle, {file}" if found else f"labeling.oracle_labels = {file}: no such file")


def _label_studio(settings: Settings) -> dict[str, Any]:
    from al_resources.labeling import LabelingError
    from al_resources.labeling.projects.label_studio_client import LabelStudioClient

    url = settings.label_studio.url
    try:
        LabelStudioClient.from_environment(url, LABEL_STUDIO_SECONDS).users()
    except LabelingError as error:
        return _check("labeling", False, str(error))
    return _check("labeling", True, f"label_studio: {url} answers and takes the token")


def _print(checks: list[dict[str, Any]], rows: list[tuple[str, Any, str]]) -> None:
    for check in checks:
        outcome = "[green]ok[/]" if check["ok"] else "[red]no[/]"
        console.print(f"{outcome}  {check['name']:22} {escape(check['detail'])}", soft_wrap=True)
    table = Table(header_style="bold")
    for column in ("setting", "value", "source"):
        table.add_column(column)
    for key, value, source in rows:
        table.add_row(key, escape(str(value)), source if source == "default" else f"[bold]{escape(source)}[/]")
    console.print(table)
