"""Running a user's file to get the model that it builds."""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leadline.program.errors import UserError, near, one_line, plain
from leadline.program.trial import preserved_rng

__all__ = ["build", "build_pointwise"]

_PREFIX = "_leadline_target_"
_RAISED = "run the file on its own to see the whole traceback"


def build(file: str, attribute: str, config: Mapping[str, Any], seed: int) -> tuple[nn.Module, Any]:
    """Run a file and take, or build, the model that it holds under a name.

    Its folder is on the import path while it runs, what it prints goes to standard error, and the random
    states of torch, Python and NumPy are seeded before and put back after.

    Args:
        file: path of a Python file.
        attribute: a module, a module class, or a function that returns a module or (module, batch); dots
            reach inside.
        config: keyword arguments of the class or function.
        seed: seed of the random states.

    Returns:
        The model, and the batch or None.

    Raises:
        UserError: no such file or name, the file or the builder raises, or what it returns is no model.
    """
    with _opened(file, attribute, seed) as (path, found):
        built = _called(found, attribute, path, config, seed)
    return _model_and_batch(built, attribute, path)


def build_pointwise(file: str, attribute: str, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Run a file and take the function of one tensor that it holds under a name, or the module that it builds.

    Args:
        file: path of a Python file.
        attribute: a function of one tensor, a module, a module class, or a function that returns a module.
        seed: seed of the random states.

    Returns:
        The function or module.

    Raises:
        UserError: no such file or name, or the file or a builder raises.
    """
    with _opened(file, attribute, seed) as (path, found):
        if inspect.isfunction(found) and len(_required(found)) == 1:
            return found
        built = _called(found, attribute, path, {}, seed)
    return _model_and_batch(built, attribute, path)[0]


@contextlib.contextmanager
def _opened(file: str, attribute: str, seed: int) -> Iterator[tuple[Path, Any]]:
    """What a file holds under a name, while it counts as running."""
    path = _existing(file)
    # A user's print must not end up in the JSON on standard output.
    with _import_path(path.parent), preserved_rng(), contextlib.redirect_stdout(sys.stderr):
        _seed(seed)
        yield path, _find(_run(path), attribute, path)


def _called(found: Any, attribute: str, path: Path, config: Mapping[str, Any], seed: int) -> Any:
    """What a builder returns; a module is returned as it is."""
    if isinstance(found, nn.Module):
        if config:
            raise UserError(
                f"'{plain(attribute)}' of {_name(path)} is a model already and cannot take the config "
                f"'{plain(next(iter(config)))}', expected a function or class: leave the config out."
            )
        return found
    if not callable(found):
        raise UserError(
            f"'{plain(attribute)}' of {_name(path)} is of type {plain(type(found).__name__)}, expected "
            "a torch.nn.Module or a function that returns one: name another."
        )
    _check_call(found, attribute, path, config)
    # The module is run code; importing it may have used up random numbers.
    _seed(seed)
    with _short_errors(f"builder '{plain(attribute)}' of {_name(path)}", path):
        return found(**config)


def _name(path: Path) -> str:
    return f"'{plain(path.name, 60)}'"


def _existing(file: str) -> Path:
    try:
        path = Path(file).expanduser().resolve()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # NUL bytes, too long, loops
        raise UserError(f"'{plain(file)}' is no path ({one_line(error, 60)}): give a Python file.") from error
    if is_folder:
        raise UserError(f"'{plain(file)}' is a folder, expected a Python file: name the file in it.")
    if not is_file:
        try:
            beside = [p.name for p in path.parent.glob("*.py")]
        except OSError:
            beside = []
        hint = near(path.name, beside) if beside else "check the path"
        raise UserError(f"there is no file '{plain(file)}', expected a Python file: {hint}.")
    if path.suffix != ".py":
        raise UserError(f"'{plain(file)}' is not a Python file, expected a name that ends in .py: give one.")
    return path


@contextlib.contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    """Import from a folder first, leave no byte code in it, and put both settings back."""
    before, bytecode = list(sys.path), sys.dont_write_bytecode
    _forget_namesakes(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = before
        sys.dont_write_bytecode = bytecode


def _forget_namesakes(folder: Path) -> None:
    """Drop modules that an earlier target in another folder imported and this folder has under the same name.

    Otherwise ``import layers`` in ``b/model.py`` would silently give the ``a/layers.py`` of the target
    before.
    """
    earlier = {Path(m.__file__).parent for n, m in _loaded() if n.startswith(_PREFIX) and m.__file__}
    earlier.discard(folder)
    if not earlier:
        return
    own = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    for name, module in _loaded():
        if name in own and module.__file__:
            file = Path(module.__file__)
            home = file.parent.parent if file.name == "__init__.py" else file.parent
            if home in earlier:
                for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
                    del sys.modules[loaded]


def _loaded() -> list[tuple[str, ModuleType]]:
    return [(n, m) for n, m in list(sys.modules.items()) if isinstance(getattr(m, "__file__", None), str)]


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a user's code may use it)


def _run(path: Path) -> ModuleType:
    name = next(n for n in (f"{_PREFIX}{i}" for i in itertools.count()) if n not in sys.modules)
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise UserError(f"{_name(path)} cannot be imported, expected a Python file: check it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    try:
        with _short_errors(f"file {_name(path)}", path):
            loader.exec_module(module)
    except UserError:
        sys.modules.pop(name, None)
        raise
    return module


@contextlib.contextmanager
def _short_errors(what: str, path: Path) -> Iterator[None]:
    """Turn whatever a user's code raises into one sentence."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"the {what} raised {one_line(error, file=str(path))}: {_RAISED}.") from error


def _find(module: ModuleType, attribute: str, path: Path) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except Exception as error:  # a property may raise anything
            raise UserError(
                f"{_name(path)} has no attribute '{plain(attribute)}', expected a function or class that "
                f"builds a model: {near(part, _candidates(path))}."
            ) from error
    return found


def _candidates(path: Path) -> list[str]:
    """Names that the file itself defines, without those it imports."""
    names: list[str] = []
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return [n for n in names if not n.startswith("_")]


def _check_call(builder: Any, attribute: str, path: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings that the builder does not take, and a builder that needs more."""
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # no signature to read: the call will tell
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in config:
        if key not in names and not takes_any:
            raise UserError(
                f"builder '{plain(attribute)}' of {_name(path)} takes no argument '{plain(key)}': {near(key, names)}."
            )
    needed = [name for name in _required(builder) if name not in config]
    if needed:
        shown = ", ".join(f"'{plain(n)}'" for n in needed[:6])
        raise UserError(
            f"builder '{plain(attribute)}' of {_name(path)} needs {shown}, expected one that can be called "
            f"without: give --config {plain(needed[0])}=VALUE, or default values."
        )


def _required(function: Any) -> list[str]:
    """Names of the arguments that a call cannot do without."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]


def _model_and_batch(built: Any, attribute: str, path: Path) -> tuple[nn.Module, Any]:
    if isinstance(built, nn.Module):
        return built, None
    if isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module):
        return built
    got = plain(type(built).__name__)
    if isinstance(built, tuple):
        got = f"a tuple of ({', '.join(plain(type(b).__name__) for b in built[:4])})"
    raise UserError(
        f"builder '{plain(attribute)}' of {_name(path)} returned {got}, expected a torch.nn.Module or "
        "(module, batch): return one of these."
    )
