"""Read settings from TOML files and `--set`, and write them."""

from __future__ import annotations

import importlib.resources
import json
import os
import pathlib
import re
import tomllib
from collections.abc import Collection, Sequence
from importlib.resources.abc import Traversable
from typing import Any

import pydantic

from jaxmia._text import read_toml
from jaxmia._validate import InputError, check_choice, listed
from jaxmia.data.feature_set import IN_MEMORY
from jaxmia.laws.law import DEFAULT_RECIPE
from jaxmia.studies.settings.errors import describe_error
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.settings.sweep import SweepConfig

_PATHS = (
    "features",
    "members",
    "statistics",
    "public",
    "file",
    "certificate",
)  # keys whose values are paths, in any table
_NO_PATHS = ("", "demo", "pool", "none")  # values that are no paths


def builtin_configs() -> dict[str, Traversable]:
    """Return the experiment files that come with jaxmia, by name, from configs/ of the checkout or the package."""
    package = importlib.resources.files("jaxmia")
    folders = (package / "configs", package / ".." / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    files = folder.iterdir() if folder is not None else ()
    return {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}


def load_config(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Return the settings of an experiment file, with overrides "table.key=value".

    Values of overrides are TOML; bare words are strings.

    Args:
        source: path of a TOML file, or the name of a built-in one ("demo").
        overrides: applied in order.

    Raises:
        InputError: for a missing file, bad TOML, an unknown key (the nearest is suggested) or a wrong value.
    """
    settings = read_settings(source, overrides)
    if {"datasets", "recipes"} & settings.keys():
        raise InputError(f"config={str(source)!r} must be an experiment; it is a sweep: use jaxmia sweep.")
    return parse_config(settings)


def load_sweep(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SweepConfig:
    """Return the settings of a sweep file, or of an experiment file as a sweep; otherwise like load_config.

    An experiment is a sweep of one feature set and one recipe. Overrides address the entries of [[datasets]] and
    [[recipes]] by name or index: "recipes.adam.steps=200".

    Args:
        source: path of a TOML file, or the name of a built-in one.
        overrides: "key=value", applied in order.

    Raises:
        InputError: as load_config.
    """
    return parse_sweep(read_settings(source, overrides))


def parse_sweep(settings: dict[str, Any], in_memory: Collection[str] = ()) -> SweepConfig:
    """Return the checked settings of a sweep or an experiment, given as nested dictionaries.

    [data] and [train] hold common values of the entries of [[datasets]] and [[recipes]]; without entries they are the
    only data set and recipe.

    Args:
        settings: as in the TOML file.
        in_memory: names of feature sets that are not read from files: entries of these names need no features, and
            without entries they are the feature sets.

    Raises:
        InputError: as parse_config.
    """
    settings = dict(settings)
    if in_memory and "datasets" not in settings:
        settings["datasets"] = [{"name": name} for name in in_memory]
    for shared_name, name, one in (("data", "datasets", _only_dataset), ("train", "recipes", _only_recipe)):
        shared = settings.pop(shared_name, {})
        if not isinstance(shared, dict):
            raise InputError(f"{shared_name}={shared!r}: must be a table.")
        entries = settings.setdefault(name, [one(shared)])
        if isinstance(entries, list):  # the model refuses entries that are not tables
            settings[name] = [_merged(shared, entry) for entry in entries]
    if isinstance(settings["datasets"], list):
        settings["datasets"] = [_without_file(entry, in_memory) for entry in settings["datasets"]]
    try:
        return SweepConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, SweepConfig)) from None


def read_settings(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a TOML file, or a built-in one, as nested dictionaries with overrides, unchecked.

    Paths in the file are relative to its folder. Paths in overrides and in built-in files are relative to the working
    directory. ~ is the home folder.

    Raises:
        InputError: for a missing file, bad TOML, or an override of an unknown key.
    """
    path = pathlib.Path(source).expanduser()
    file: Traversable = path
    if not path.is_file():
        builtin = builtin_configs()
        if str(source) not in builtin:
            raise InputError(
                f"config={str(source)!r} must be a TOML file or one of {', '.join(sorted(builtin))}; there is none."
            )
        file = builtin[str(source)]
    folder = path.absolute().parent if file is path else pathlib.Path.cwd()
    settings: dict[str, Any] = _placed(read_toml(file, "config"), folder)
    for override in overrides:
        _apply(override, settings)
    return settings


def _placed(settings: Any, folder: pathlib.Path) -> Any:
    """Return settings whose relative paths, at any depth, start at a folder."""
    if isinstance(settings, list):
        return [_placed(entry, folder) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: place_of(value, folder) if key in _PATHS and isinstance(value, str) else _placed(value, folder)
        for key, value in settings.items()
    }


def place_of(path: str, folder: pathlib.Path) -> str:
    """Return a path of a settings file relative to a folder; values that are no paths are not changed."""
    return path if path in _NO_PATHS else str(folder / os.path.expanduser(path))


def parse_config(settings: dict[str, Any]) -> ExperimentConfig:
    """Return the checked settings of an experiment, given as nested dictionaries as in the TOML file.

    Raises:
        InputError: for wrong settings; the message has the path of the first wrong field, the rule, the value, and the
            number of other errors.
    """
    try:
        return ExperimentConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise InputError(describe_error(error, ExperimentConfig)) from None


def to_toml(config: ExperimentConfig) -> str:
    """Return the settings as TOML that load_config reads back unchanged."""
    settings = config.model_dump(exclude_none=True)
    tables = [name for name, value in settings.items() if isinstance(value, dict)]
    lines = [f"{name} = {_toml_value(value)}" for name, value in settings.items() if name not in tables]
    for name in tables:
        lines += [
            "",
            f"[{name}]",
            *(f"{key} = {_toml_value(value)}" for key, value in settings[name].items()),
        ]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):  # keys are names of options
        return "{ " + ", ".join(f"{key} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # also for infinity
    return json.dumps(value)  # strings, integers and booleans are written alike


def _apply(override: str, settings: dict[str, Any]) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise InputError(f"--set {override!r} must have the form table.key=value, as in train.steps=200.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word: train.optimizer=sgd
    *tables, key = path.strip().split(".")
    place: Any = settings
    for table in tables:
        if isinstance(place, list):  # [[recipes]] and the like: the word names an entry
            entries = _by_name(place)
            check_choice(f"--set {override!r}: name", table, entries)
            place = entries[table]
        else:
            place = place.setdefault(table, {})
        if not isinstance(place, (dict, list)):
            raise InputError(f"--set {override!r} must name a key of a table; {table!r} is a value.")
    if isinstance(place, list):
        raise InputError(f"--set {override!r} must name a key of one of {listed(_by_name(place))}.")
    place[key] = _placed({key: value}, pathlib.Path.cwd())[key]


def _by_name(entries: list[Any]) -> dict[str, Any]:
    tables = {str(place): entry for place, entry in enumerate(entries) if isinstance(entry, dict)}
    return tables | {str(entry["name"]): entry for entry in tables.values() if "name" in entry}


def _only_dataset(data: dict[str, Any]) -> dict[str, Any]:
    features = str(data.get("features", "demo"))
    name = re.sub(r"[^A-Za-z0-9]+", "-", pathlib.PurePath(features).stem).strip("-")
    return {"name": name or "data", "features": features}


def _only_recipe(train: dict[str, Any]) -> dict[str, Any]:
    return {"name": DEFAULT_RECIPE}


def _without_file(entry: Any, in_memory: Collection[str]) -> Any:
    named = isinstance(entry, dict) and entry.get("name") in in_memory
    return {**entry, "features": IN_MEMORY} if named else entry


def _merged(shared: dict[str, Any], entry: Any) -> Any:
    return {**shared, **entry} if isinstance(entry, dict) else entry
