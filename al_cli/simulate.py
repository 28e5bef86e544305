"""`al simulate`: what active learning would save on your data, before anybody labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from al_core.learning.settings import SMALL_CNN, resolve_weights
from al_core.shown_text import harmless_lines
from simulation.presets import PRESETS, Encoder, default_start, training_defaults

if TYPE_CHECKING:
    from simulation.annotators import OracleSettings
    from simulation.study import BrakeSettings, JudgedBy


@click.command()
@click.option("--data", help="digits, cifar10:FOLDER-or-TAR, imagefolder:PATH, torchvision:NAME.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="A known protocol; options override it.")
@click.option("--strategy", "strategies", multiple=True, help="Query strategy; repeat it. See `al strategies`.")
@click.option("--start", "starts", multiple=True, type=click.Choice(["warm", "cold", "shrink"]),
              help="How each round's training begins; repeat it to compare.  [default: warm; shrink for cifar10 from "
              "scratch]")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), help="Runs per strategy.  [default: 5]")
@click.option("--rounds", type=click.IntRange(1), help="Rounds after the first model.  [default: 30]")
@click.option("--budget", type=click.IntRange(1), help="Labels per round.  [default: 50]")
@click.option("--initial", type=click.IntRange(2), help="Labels of the first model.  [default: 200]")
@click.option("--seed-pool", type=click.IntRange(0), help="Images a frozen encoder looks at to choose the first labels "
              "by coverage; 0: at random, as random sampling always does.  [default: 5000]")  # fmt: skip
@click.option("--score-sample", type=click.IntRange(1), help="Images scored per round.  [default: 500]")
@click.option("--no-return", is_flag=True, help="Scored but unselected images do not come back.")
@click.option("--test-images", type=click.IntRange(1), help="Size of the test set.  [default: 500]")
@click.option("--imbalance", type=click.FloatRange(1), metavar="RATIO",
              help="A pool with a long tail, its rarest class RATIO times rarer.  [default: 1]")  # fmt: skip
@click.option("--control-share", type=click.FloatRange(0, 1), help="Random part of each batch.  [default: 0]")
@click.option("--validation-share", type=click.FloatRange(0, 1, max_open=True),
              help="Part of the labels that stops and calibrates the training.  [default: 0.1]")  # fmt: skip
@click.option("--noise", multiple=True, metavar="RATE|CLASS=RATE",
              help="Share of wrong answers, of all classes or of one; repeat it.")  # fmt: skip
@click.option("--annotators", type=click.IntRange(1), help="People who answer every image.")
@click.option("--abstention", type=click.FloatRange(0, 1, max_open=True), help="Share of answers that are 'unsure'.")
@click.option("--seconds-per-label", "seconds", multiple=True, metavar="SECONDS|CLASS=SECONDS",
              help="Median time of an answer, of all classes or of one; repeat it.  [default: 3]")  # fmt: skip
@click.option("--frozen", is_flag=True, help="Embed once and train the head only: seconds instead of minutes.")
@click.option("--pretrain", type=click.IntRange(1), metavar="EPOCHS", help="Learn the encoder from the pool first.")
@click.option("--train", "training", multiple=True, metavar="KEY=VALUE", help="A training setting, like epochs=20.")
@click.option("--deploy", is_flag=True, help="Play the whole loop with its reserve, duels and gate: how good the "
              "deployed model is, against all labels paid.")  # fmt: skip
@click.option("--reserve", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
              help="With --deploy: of all images may judge.  [default: 0.2; of the few digits 0.4]")  # fmt: skip
@click.option("--judged-by", type=click.Choice(["duels", "holdout"]),
              help="With --deploy: holdout is the usual way, a sign test on its labels.  [default: duels]")  # fmt: skip
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the study.")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one per core]")
@click.option("--threads", type=click.IntRange(1), help="Of each process.  [default: 1]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def simulate(output: Path | None, workers: int | None, as_json: bool, **options: Any) -> None:
    """How many labels would active learning save on this data, with which strategy, and is it luck?

    Runs production's selection, training and evaluation with known labels in place of people: every strategy on
    the same seeds, traffic and test set, and the same first labels: at random, but with a frozen encoder those that
    cover the images, for all but random sampling. Writes tables, a report (HTML, PNG, Markdown) and a plain
    sentence. Stopped, it goes on where it was when called again.
    """
    from al_core.strategies.registry import get_strategy
    from simulation.runner import run_study

    for name in options["strategies"]:
        try:
            get_strategy(name)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--strategy") from error
    study = _study(options)
    folder = output or Path("studies") / f"{study.data.partition(':')[0]}-{study.key}"
    with _Progress(quiet=as_json) as progress:
        table = run_study(study, folder, workers=workers, progress=progress.update, say=progress.say)
    from simulation.report import write_report

    summary = write_report(folder, table)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(harmless_lines((folder / "report.md").read_text()))
    click.echo(f"Report: {folder / 'report.html'}")


def _study(options: dict[str, Any]) -> Any:
    """The study that the options ask for. Raises `click.ClickException` where they do not fit together."""
    from pydantic import ValidationError

    from simulation.study import PretrainSettings, Study

    facts = dict(PRESETS.get(options["preset"] or "", {}))
    facts |= {
        name: value
        for name in (
            "data",
            "seeds",
            "rounds",
            "budget",
            "initial",
            "seed_pool",
            "score_sample",
            "test_images",
            "imbalance",
            "control_share",
            "validation_share",
            "threads",
        )
        if (value := options[name]) is not None
    }
    for name in ("strategies", "starts"):
        if options[name]:
            facts[name] = options[name]
    facts.setdefault("data", "digits")
    facts.setdefault("strategies", ("random", "least_confidence", "margin", "entropy"))
    facts["return_unselected"] = not options["no_return"]
    named = ("annotators", "abstention")
    oracle = {name: options[name] for name in named if options[name] is not None}
    try:
        wanted = dict(_pairs(options["training"]))
        encoder = _encoder(options, wanted)
        facts.setdefault("starts", (default_start(facts["data"], encoder),))
        training = (
            training_defaults(facts["data"], encoder, published=_published(wanted))
            | {"frozen": options["frozen"]}
            | wanted
        )
        facts |= {"training": training, "oracle": _annotators(oracle, options)}
        if options["deploy"]:
            reserve = options["reserve"] or (0.4 if facts["data"] == "digits" else None)
            facts["deploy"] = _brakes(facts.get("initial", 200), reserve, options["judged_by"] or "duels")
        for name in ("reserve", "judged_by"):
            if options[name] is not None and not options["deploy"]:
                raise click.BadParameter("nobody judges without --deploy", param_hint=f"--{name.replace('_', '-')}")
        if options["pretrain"]:
            facts["pretrain"] = PretrainSettings(epochs=options["pretrain"])
        return Study(**facts)
    except ValidationError as error:
        raise click.ClickException("; ".join(map(_explain, error.errors()))) from error


def _brakes(initial: int, reserve: float | None, judged_by: JudgedBy) -> BrakeSettings:
    """Production's defaults; of few first labels more than usual measure, so that the first model can be judged."""
    from al_core.judging.gate import LEAST_IMAGES
    from simulation.study import BrakeSettings

    usual = BrakeSettings()
    share = min(0.5, max(usual.share, LEAST_IMAGES / initial))
    return usual.model_copy(update={"share": share, "reserve": reserve or usual.reserve, "judged_by": judged_by})


def _encoder(options: dict[str, Any], training: dict[str, Any]) -> Encoder:
    """What the encoder knows before the first label."""
    if options["frozen"]:
        return "frozen"
    learned = options["pretrain"] or _published(training) or training.get("weights", "none") not in ("auto", "none")
    return "learned" if learned else "from scratch"


def _published(training: dict[str, Any]) -> bool:
    """Whether the encoder comes with weights, and with a size of its own."""
    architecture = training.get("architecture", SMALL_CNN)
    weights = resolve_weights(architecture, training.get("weights", "auto"))
    return weights == "default" or (weights != "none" and ":" in architecture)


def _explain(problem: Any) -> str:
    """A problem that pydantic found, for people; settings that do not fit together have no place."""
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _annotators(oracle: dict[str, Any], options: dict[str, Any]) -> OracleSettings:
    from simulation.annotators import OracleSettings

    noise = _by_class(options["noise"], "--noise", "noise", "class_noise")
    seconds = _by_class(options["seconds"], "--seconds-per-label", "seconds_per_label", "class_seconds")
    return OracleSettings(**oracle, **noise, **seconds)


def _by_class(values: tuple[str, ...], option: str, of_all: str, of_class: str) -> dict[str, Any]:
    """Two settings from one option: a plain number is for all classes that are not named."""
    plain = [value for value in values if "=" not in value]
    named = [value.rpartition("=") for value in values if "=" in value]
    if len(plain) > 1:
        raise click.BadParameter(f"{' and '.join(plain)} for all classes; give one", param_hint=option)
    facts: dict[str, Any] = {of_class: {name: value for name, _, value in named}} if named else {}
    return facts | ({of_all: plain[0]} if plain else {})


def _pairs(settings: tuple[str, ...]) -> list[tuple[str, Any]]:
    for setting in settings:
        if "=" not in setting:
            raise click.BadParameter(f"{setting!r} is no KEY=VALUE", param_hint="--train")
    pairs = (setting.partition("=") for setting in settings)
    # a choice between numbers does not read text by itself, as numbers do
    return [(key, int(value) if value.isdigit() else value) for key, _, value in pairs]


class _Progress:
    """A bar with the rounds done and the time left."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, quiet=quiet),
        )
        self._task = self._bar.add_task("rounds", total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Called with the rounds that are done."""
        self._bar.update(self._task, completed=done, total=total)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line, highlight=False)
