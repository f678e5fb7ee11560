"""What all benchmarks share: options, the table that they print, and the line about the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxmia.data import normalization
from jaxmia.data.feature_set import FeatureSet, feature_set, load_features

_PACKAGES = ("jaxmia", "jax", "numpy", "scipy")
_STARTED = time.perf_counter()


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    result.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    result.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the rows as JSON")
    return result


def add_features(options: argparse.ArgumentParser) -> None:
    """Add the options that choose a feature set."""
    options.add_argument("--features", default="demo", metavar="PATH", help="an .npz of features, or 'demo'")
    options.add_argument("--classes", type=int, default=10, help="C; takes the C largest classes")
    options.add_argument("--standardize", action="store_true", help=standardized.__doc__)


def chosen_features(arguments: argparse.Namespace) -> FeatureSet:
    """Load the feature set. If its file is absent, say so and exit with status 0: skipping is not a failure."""
    if arguments.features != "demo" and not pathlib.Path(arguments.features).is_file():
        print(f"skipped: the feature set {arguments.features} is absent")
        sys.exit(0)
    data = load_features(arguments.features)
    return standardized(data) if arguments.standardize else data


def standardized(data: FeatureSet) -> FeatureSet:
    """Centre and scale each dimension over all examples; divide by sqrt(dim), for a mean square norm of 1."""
    return normalization.standardized(data, normalization.feature_statistics(data.features))


def synthetic_pool(seed: int, *, examples: int, classes: int, dim: int) -> FeatureSet:
    """Return Gaussian classes around random means, with features of about unit norm."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), examples // classes)
    means = rng.normal(size=(classes, dim))
    features = (0.1 * means[labels] + rng.normal(size=(len(labels), dim))) / np.sqrt(dim)
    return feature_set(features, labels)


def machine() -> str:
    """Return processor, core count and versions as one line."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = {device.device_kind for device in jax.devices()}
    return (
        f"{cores}-core {platform.machine()} {'/'.join(sorted(devices)).upper()}, Python {platform.python_version()},"
        f" {packages}"
    )


def report(
    title: str,
    rows: Sequence[dict[str, Any]],
    *,
    dtype: str,
    facts: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    """Print rows as one Markdown table, followed by the machine; write them to a file if --json is given.

    Args:
        title: what the table shows.
        rows: cells by heading; every row has the same headings.
        dtype: number formats of the computation.
        facts: further figures, printed below the table.
        arguments: those of the command line.
    """
    headings = list(rows[0])
    print(f"\n{title}\n")
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(_cell(row[heading]) for heading in headings) + " |")
    print()
    for name, value in facts.items():
        print(f"{name}: {_cell(value)}")
    print(f"{machine()}; {dtype}")
    keep(arguments, title, rows, dtype=dtype, **facts)


def keep(
    arguments: argparse.Namespace, title: str, rows: Sequence[dict[str, Any]], *, dtype: str, **more: Any
) -> None:
    """Write rows, and whatever else a page shows, with where they come from, if --json asks for it."""
    if arguments.json:
        settings = {
            name: " ".join(named(str(each)) for each in (value if isinstance(value, list) else [value]))
            for name, value in vars(arguments).items()
            if name != "json"
        }
        content = {"title": title, **origin(), "dtype": dtype, "arguments": settings, "rows": rows}
        arguments.json.write_text(json.dumps(content | more, indent=1, default=float) + "\n")


def origin() -> dict[str, Any]:
    """Return the origin of the figures: command, commit, machine with versions, and seconds so far."""
    return {
        "command": shlex.join(
            ["python", f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *map(named, sys.argv[1:])]
        ),
        "commit": commit(),
        "machine": machine(),
        "seconds": round(time.perf_counter() - _STARTED, 1),
    }


def named(word: str) -> str:
    """Return a word of the command line; of an absolute path only the file name, so that folders stay private."""
    return pathlib.PurePath(word).name if pathlib.PurePath(word).is_absolute() else word


def commit() -> str | None:
    """Return the commit of this code, with "+" if files differ from it; None outside a repository."""

    def git(*words: str) -> str:
        place = pathlib.Path(__file__).parent
        return subprocess.run(["git", *words], cwd=place, check=True, capture_output=True, text=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../jaxmia", ".")
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):  # mean and standard error
        mean, error = value
        return f"{mean:.3f}" if np.isnan(error) else f"{mean:.3f} ({error:.3f})"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
