"""Where `training.trainer` leads, found without running a line of it: a trainer imports torch, and takes seconds."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from al_core.errors import InvalidInput


def split_trainer_path(dotted_path: str) -> tuple[str, str]:
    """Module and attribute. Raises `ValueError` where the path has another form."""
    module, colon, attribute = dotted_path.partition(":")
    if not (module and colon and attribute):
        raise InvalidInput(
            f"training.trainer is {dotted_path!r}; expected module:attribute, like my_package.my_module:MyTrainer"
        )
    return module, attribute


def check_trainer_path(dotted_path: str) -> None:
    """Nothing, where the module is there and, as far as its source says, the attribute.

    The working directory counts: the processes of the loop are started there.

    Raises:
        ValueError: the path has another form, or leads nowhere.
    """
    module, attribute = split_trainer_path(dotted_path)
    spec = _find(module)
    if spec is None:
        raise InvalidInput(
            f"no module {module} is found; expected an installed one, or a file where the command is started"
        )
    names = _defined(spec)
    if names is not None and attribute not in names:
        near = difflib.get_close_matches(attribute, names, n=1)
        raise InvalidInput(f"{module} has no {attribute}" + (f"; did you mean {near[0]}?" if near else ""))


def _find(module: str) -> ModuleSpec | None:
    top, *below = module.split(".")
    # An editable installation has a finder of its own, which `PathFinder` does not ask. A package's inner modules
    # are searched by path alone: `find_spec` would import the package.
    spec = _installed(top) or PathFinder.find_spec(top, [str(Path.cwd())])
    found = top
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None  # below a module that is no package
        found += f".{part}"
        spec = PathFinder.find_spec(found, spec.submodule_search_locations)
    return spec


def _installed(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except ValueError:  # a module made by hand, as `__main__` may be: it has no specification
        return None


def _defined(spec: ModuleSpec) -> set[str] | None:
    """The public names that a module's source binds; None where that cannot be told."""
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        body = ast.parse(Path(spec.origin).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    names = set(_bound(body))
    return None if "*" in names or "__getattr__" in names else {name for name in names if not name.startswith("_")}


def _bound(statements: Sequence[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _bound([inner for inner in ast.walk(statement) if isinstance(inner, ast.stmt)][1:])
