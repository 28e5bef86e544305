"""One loop among several of an instance: what its definitions are called, and how functions become definitions of it.

Assets, checks, jobs, sensors and the schedule are written once, as functions that take a `platform`. A loop with a key
prefix has them under its own names, with its own platform: keys `cats/deployment`, jobs `cats__training_deployment`,
partitions `cats__round`, the resource `cats__platform`.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from al_core.errors import InvalidInput

# Partitioned checks are a preview of Dagster; the version is pinned below 1.14, and tests hold what they must do.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
warnings.filterwarnings("ignore", ".*(LocalFileCodeReference|CodeReferencesMetadataValue)", dg.BetaWarning)

PLATFORM, ROUND, GROUP = "platform", "round", "active_learning"
BETWEEN = "__"  # of the parts of a name, as Dagster itself joins those of an asset key
PART = re.compile("[A-Za-z0-9]+(_[A-Za-z0-9]+)*")
ASSET_JOB = "__ASSET_JOB"  # of runs that somebody starts by [Materialize]


@dataclass(frozen=True)
class LoopNames:
    """The names of one loop. Without a prefix it is the only one of its instance.

    Raises:
        InvalidInput: a part of the prefix cannot be part of a name in Dagster.
    """

    prefix: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()  # of its assets: `team:NAME`, or addresses
    model: str = ""  # which one it improves: a tag of its assets

    def __post_init__(self) -> None:
        for part in self.prefix:
            if PART.fullmatch(part) is None:
                raise InvalidInput(
                    f"key prefix {'/'.join(self.prefix)!r}: {part!r} cannot be part of a name. Use letters, digits and "
                    "single underscores between them, like cats or shop_floor"
                )

    @property
    def shown(self) -> str:
        """`cats/`, for people; nothing for the only loop."""
        return "".join(f"{part}/" for part in self.prefix)

    @property
    def group(self) -> str:
        """The group of its assets."""
        return "_".join(self.prefix) or GROUP

    @property
    def platform(self) -> str:
        """The resource that is its platform."""
        return self.name(PLATFORM)

    @property
    def rounds(self) -> dg.DynamicPartitionsDefinition:
        """Its rounds."""
        return dg.DynamicPartitionsDefinition(name=self.name(ROUND))

    @property
    def round_partitions(self) -> str:
        """What its rounds are called among all partitions of the instance."""
        return self.name(ROUND)

    def name(self, own: str) -> str:
        """What its job, sensor, pool or resource is called."""
        return BETWEEN.join([*self.prefix, own])

    def own(self, name: str) -> str:
        """What a job of it is called where it is the only loop: records name jobs so."""
        return name.removeprefix(self.name(""))

    def key(self, own: str) -> dg.AssetKey:
        """The key of its asset."""
        return dg.AssetKey([*self.prefix, own])

    def owns(self, run: dg.DagsterRun) -> bool:
        """Whether a run is one of its own, and not of another loop in the same code location."""
        if run.job_name != ASSET_JOB:
            return run.job_name.rpartition(BETWEEN)[0] == BETWEEN.join(self.prefix)
        keys = [*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())]
        return any(tuple(key.path[:-1]) == self.prefix for key in keys)

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, given this loop's platform as `platform`, and these names as `loop` where it asks for them.

        Dagster reads from a parameter's name which resource is meant, so the parameter takes the resource's name.
        """
        signature = inspect.signature(function, eval_str=True)  # where the names of its annotations are known
        parameters = signature.parameters
        asks = "loop" in parameters
        if not asks and self.platform == PLATFORM:
            return function

        @functools.wraps(function)
        def bound(*arguments: Any, **named: Any) -> Any:
            given = {PLATFORM if name == self.platform else name: value for name, value in named.items()}
            return function(*arguments, **given, **({"loop": self} if asks else {}))

        renamed = {name: self.platform if name == PLATFORM else name for name in parameters if name != "loop"}
        own = signature.replace(parameters=[parameters[name].replace(name=new) for name, new in renamed.items()])
        bound.__signature__ = own  # type: ignore[attr-defined]
        bound.__annotations__ = {one.name: one.annotation for one in own.parameters.values()}
        bound.__annotations__["return"] = own.return_annotation
        return bound


THE_LOOP = LoopNames()


@dataclass(frozen=True)
class LoopAsset:
    """An asset that every loop has: the function behind it, and what Dagster is told of it."""

    function: Callable[..., Any]
    facts: dict[str, Any]
    after: str
    pool: str
    by_round: bool
    columns: dg.TableSchema | None

    @property
    def name(self) -> str:
        """Its own name, the last part of its key."""
        return self.function.__name__

    def of(self, loop: LoopNames = THE_LOOP) -> dg.AssetsDefinition:
        """The asset of that loop."""
        return dg.asset(
            name=self.name,
            key_prefix=[*loop.prefix] or None,
            deps=[loop.key(self.after)] if self.after else [],
            partitions_def=loop.rounds if self.by_round else None,
            group_name=loop.group,
            owners=[*loop.owners],
            tags={"al/model": loop.model} if loop.model else {},
            pool=loop.name(self.pool) if self.pool else None,
            metadata={
                **({} if self.columns is None else {"dagster/column_schema": self.columns}),
                "dagster/code_references": self._code(),
            },
            **self.facts,
        )(loop.bound(self.function))

    def _code(self) -> dg.CodeReferencesMetadataValue:
        code = self.function.__code__
        place = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return dg.CodeReferencesMetadataValue(code_references=[place])


def loop_asset(
    *, after: str = "", pool: str = "", by_round: bool = True, columns: dg.TableSchema | None = None, **facts: Any
) -> Callable[[Callable[..., Any]], LoopAsset]:
    """An asset of a loop, from a function that makes it; `facts` go to `dg.asset` as they are."""
    return lambda function: LoopAsset(function, facts, after, pool, by_round, columns)


@dataclass(frozen=True)
class LoopCheck:
    """A check that every loop has."""

    function: Callable[..., Any]
    asset: LoopAsset
    facts: dict[str, Any]

    def of(self, loop: LoopNames = THE_LOOP) -> dg.AssetChecksDefinition:
        """The check of that loop."""
        partitions: dict[str, Any] = {"partitions_def": loop.rounds} if self.asset.by_round else {}
        decorator = dg.asset_check(
            asset=loop.key(self.asset.name), name=self.function.__name__, **partitions, **self.facts
        )
        return decorator(loop.bound(self.function))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the function says, without Dagster."""
        return self.function(*arguments, **named)


def loop_check(*, asset: LoopAsset, **facts: Any) -> Callable[[Callable[..., Any]], LoopCheck]:
    """A check on an asset of a loop, of the asset's round where it has rounds."""
    return lambda function: LoopCheck(function, asset, facts)


def loop_job(
    loop: LoopNames, name: str, step: Callable[..., Any], *, description: str, pool: str = "", tag: str = ""
) -> dg.JobDefinition:
    """A job of one step, in the process that starts it. The step is a function with a `platform`."""
    op = dg.op(name=loop.name(step.__name__), pool=loop.name(pool) if pool else None)(loop.bound(step))

    @dg.job(
        name=loop.name(name),
        description=description,
        tags={"al/loop": tag} if tag else None,
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        op()

    return job


def assets_of(loop: LoopNames, assets: Sequence[LoopAsset]) -> dg.AssetSelection:
    """Those assets of the loop, for a job."""
    return dg.AssetSelection.assets(*(loop.key(asset.name) for asset in assets))
