"""Features of tables without a network: standardised numbers, one-hot categories, random Fourier features."""

from __future__ import annotations

import dataclasses
import decimal
import hashlib
import json
import math
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from jaxmia._atomic import check_writable, replacing
from jaxmia._npz import check_archive
from jaxmia._text import printable
from jaxmia._validate import InputError, check, check_at_least, check_choice, check_different, listed
from jaxmia.extract.backbones import Backbone
from jaxmia.extract.rows import Source

MISSING = ("", "na", "nan", "null", "none")  # words for missing values, in any case
MOST_CATEGORIES = 200  # largest number per column: with more, a column holds names or free text
SUFFIX = ".skops"
_TRUSTED = ("numpy.dtype", "sklearn.kernel_approximation.RBFSampler")

Cell = float | str | None


@dataclasses.dataclass(frozen=True)
class TabularOptions:
    """How a table becomes features.

    Attributes:
        fourier: number D of random Fourier features of the Gaussian kernel; 0 for the standardised columns.
        seed: seed of their directions and phases.
        drop: columns to leave out.
        categories: columns whose numbers are categories.
        transformer: .skops file to write the fitted transformer to, or None.
    """

    fourier: int = 256
    seed: int = 0
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    transformer: pathlib.Path | None = None

    def check(self) -> None:
        """Raise InputError, naming the option, unless all values make sense."""
        check_at_least("fourier", self.fourier, 0)
        check_at_least("seed", self.seed, 0)
        check(self.seed < 2**32, "seed", self.seed, "be below 2**32")
        for name, values in (("drop", self.drop), ("categories", self.categories)):
            check_different(name, values)
        both = sorted(set(self.drop) & set(self.categories))
        check(not both, "categories", both, "be left out of drop")
        if self.transformer is not None:
            check(
                self.transformer.suffix == SUFFIX, "save_transformer", str(self.transformer), "end in .skops"
            )
            check_writable(self.transformer)


@dataclasses.dataclass(frozen=True)
class Table:
    """The columns of a table that features are computed from.

    Attributes:
        numbers: names of the columns of numbers.
        categories: names of the columns of categories.
        cells: values of all usable rows by column; None for missing values.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    cells: Mapping[str, Sequence[Cell]]

    def frame(self) -> pd.DataFrame:
        """Return the transformer's input: numbers as float64, categories as strings; NaN for missing values."""
        return _frame(self.numbers, self.categories, self.cells)


def load(name: str, source: Source, usable: Sequence[int], options: TabularOptions) -> Backbone:
    """Return a transformer, fitted to all usable rows of a table or read from a file.

    Args:
        name: .skops file that an extraction wrote; empty to fit a transformer.
        source: the table.
        usable: indices of its usable rows.
        options: options of the fit.

    Raises:
        InputError: for unusable columns (without values, with mixed types, with too many categories), an unknown column
            name, or a file that holds no such transformer or needs other columns.
    """
    records = [source.content(place) for place in usable]
    if name:
        return _saved(pathlib.Path(name), records)
    table = table_of(records, tuple(source.columns.values()), options)
    transformer = fit(table, options)
    if options.transformer is not None:
        import skops.io

        with replacing(options.transformer) as temporary:
            temporary.write_bytes(skops.io.dumps(transformer))
    facts = {"kind": "tabular", "name": "fitted here", "fourier": options.fourier, "seed": options.seed}
    return _backbone(transformer, facts, _notes_of_fit(table, transformer, options))


def table_of(records: Sequence[Mapping[str, Any]], named: Sequence[str], options: TabularOptions) -> Table:
    """Return the columns that features are computed from, by type.

    A column is numeric if all its values are numbers. It is categorical if at least half of its values are words, or if
    the options say so.

    Args:
        records: the usable rows.
        named: columns of classes, ids, membership and the like, which are no features.
        options: options of the fit.

    Raises:
        InputError: as load.
    """
    known = list(dict.fromkeys(name for record in records for name in record))
    for option, names in (("drop", options.drop), ("categories", options.categories)):
        for name in names:
            check_choice(option, name, [each for each in known if each not in named])
    columns = [name for name in known if name not in named and name not in options.drop]
    check(bool(columns), "columns", known, f"hold one beside {listed([*named, *options.drop])}")
    kinds = {
        name: name not in options.categories
        and _is_of_numbers(name, [_cell(name, record.get(name)) for record in records])
        for name in columns
    }
    read: dict[bool, Callable[[str, Any], Cell]] = {True: _cell, False: _category}
    cells = {
        name: [read[is_number](name, record.get(name)) for record in records]
        for name, is_number in kinds.items()
    }
    for name, is_number in kinds.items():
        given = set(cells[name]) - {None}
        if not given:
            raise InputError(
                f"column={name!r} must hold values; it has none in {len(records)} rows: --drop {name}."
            )
        if not is_number and len(given) > MOST_CATEGORIES:
            raise InputError(
                f"column={name!r} must have at most {MOST_CATEGORIES} categories, got {len(given)}: names and free"
                f" text are no categories: --drop {name}."
            )
    numbers = tuple(name for name in columns if kinds[name])
    return Table(numbers, tuple(name for name in columns if not kinds[name]), cells)


def _is_of_numbers(name: str, cells: Sequence[Cell]) -> bool:
    given = [cell for cell in cells if cell is not None]
    words = [cell for cell in given if isinstance(cell, str)]
    if words and 2 * len(words) < len(given):
        raise InputError(
            f"column={name!r} must hold only numbers; {len(words)} of {len(given)} values are none"
            f" (first: {words[0]!r}): correct them, or give --categories {name} or --drop {name}."
        )
    return not words


def fit(table: Table, options: TabularOptions) -> Any:
    """Fit a scikit-learn Pipeline of a ColumnTransformer and, unless fourier is 0, an RBFSampler.

    Numbers are centred and scaled to variance 1; missing ones are replaced by the median and marked in an extra column.
    Categories are one-hot encoded; missing values are a separate category, and values unknown at the fit have no
    category. Random Fourier features z of D dimensions have E[z(x) . z(y)] = exp(-gamma ||x - y||^2) (Rahimi and Recht
    2007, "Random features for large-scale kernel machines"), gamma = 1 / (columns x their variance), as in
    scikit-learn's SVC.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = Pipeline(
        [("missing", SimpleImputer(strategy="median", add_indicator=True)), ("scaled", StandardScaler())]
    )
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("numbers", numbers, list(table.numbers)), ("categories", one_hot, list(table.categories))]
    columns = ColumnTransformer([part for part in parts if part[2]], sparse_threshold=0)
    frame = table.frame()
    plain = columns.fit_transform(frame)
    if not options.fourier:
        return Pipeline([("columns", columns)])
    gamma = 1 / (plain.shape[1] * max(float(plain.var()), 1e-12))
    sampler = RBFSampler(gamma=gamma, n_components=options.fourier, random_state=options.seed)
    return Pipeline([("columns", columns), ("fourier", sampler.fit(plain))])


def _notes_of_fit(table: Table, transformer: Any, options: TabularOptions) -> list[str]:
    """Return notes on the treatment of columns, on estimates from the data, and on likely mistakes."""
    rows = len(next(iter(table.cells.values())))
    kinds = [
        f"{len(names)} columns of {kind} ({listed(names)})"
        for kind, names in (("numbers", table.numbers), ("categories", table.categories))
        if names
    ]
    estimated = ["medians, means and deviations"] if table.numbers else []
    estimated += ["categories"] if table.categories else []
    features = ""
    if options.fourier:
        gamma = transformer["fourier"].gamma
        estimated.append("width of the kernel")
        features = f"; {options.fourier} random Fourier features (seed {options.seed}, gamma {gamma:.3g})"
    notes = [f"Features from {' and '.join(kinds)}{features}."]
    notes += [
        f"Estimated from all {rows} rows, members or not, without their classes: {', '.join(estimated)}."
        " Differential privacy of a head's training does not cover them."
    ]
    absent = {name: sum(cell is None for cell in cells) for name, cells in table.cells.items()}
    absent = {name: count for name, count in absent.items() if count}
    if absent:
        counts = listed(f"{name} {count}" for name, count in absent.items())
        notes.append(
            f"Missing values: {counts}; numbers are replaced by the median and marked in an extra"
            " column; categories have a separate one."
        )
    given = {name: {cell for cell in cells if cell is not None} for name, cells in table.cells.items()}
    constant = [name for name, values in given.items() if len(values) == 1 and name not in absent]
    if constant:
        notes.append(f"Columns with a single value, without information: {listed(constant)}.")
    keys = [name for name in table.numbers if len(given[name]) == rows and _are_whole(given[name])]
    if keys:
        notes.append(
            "Columns with a different whole number in every row, probably a key (--drop leaves it out):"
            f" {listed(keys)}."
        )
    return notes


def _saved(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> Backbone:
    """Return the transformer of a file, for the same columns."""
    import skops.io

    check_archive(path)
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        foreign = sorted(set(untrusted) - set(_TRUSTED))
        transformer: Any = None if foreign else skops.io.load(path, trusted=untrusted)
    except Exception as error:  # of whatever kind: zip, JSON, missing keys
        raise InputError(f"{path} must be a readable .skops file: {error}.") from None
    if foreign:
        raise InputError(f"{path} must hold a transformer of scikit-learn alone, got {listed(foreign)}.")
    try:
        parts = {name: tuple(columns) for name, _, columns in transformer["columns"].transformers_}
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path} must hold a transformer that --save-transformer wrote.") from None
    numbers, categories = parts.get("numbers", ()), parts.get("categories", ())
    known = {name for record in records for name in record}
    absent = [name for name in (*numbers, *categories) if name not in known]
    check(not absent, f"columns of {path.name} that the table lacks", absent, "be none")
    cells = _cells(numbers, categories, records)
    for name in numbers:
        wrong = next((cell for cell in cells[name] if isinstance(cell, str)), None)
        check(wrong is None, f"column {name}", wrong, "hold numbers, as where the transformer was fitted")
    facts = {"kind": "tabular", "name": path.name}
    notes = [f"Features by {path.name}: nothing was estimated from these rows."]
    unknown = _unknown(transformer, categories, cells)
    if unknown:
        notes.append(
            f"Categories unknown to {path.name}, encoded as no category: {listed(map(' '.join, unknown))}."
        )
    return _backbone(transformer, facts, notes)


def _unknown(
    transformer: Any, categories: Sequence[str], cells: Mapping[str, Sequence[Cell]]
) -> list[tuple[str, str]]:
    """Return columns with values that were unknown at the fit, and the number of such rows."""
    if not categories:
        return []
    encoder = transformer["columns"].named_transformers_["categories"]
    counts = {
        name: sum(cell is not None and cell not in set(known) for cell in cells[name])
        for name, known in zip(categories, encoder.categories_, strict=True)
    }
    return [(name, str(count)) for name, count in counts.items() if count]


def _backbone(transformer: Any, facts: dict[str, Any], notes: Iterable[str]) -> Backbone:
    parts = {name: tuple(columns) for name, _, columns in transformer["columns"].transformers_}
    numbers, categories = parts.get("numbers", ()), parts.get("categories", ())

    def features(items: Sequence[Any]) -> Float[np.ndarray, "items dim"]:
        frame = _frame(numbers, categories, _cells(numbers, categories, items))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found unknown categories")  # _saved reports their number
            return np.asarray(transformer.transform(frame), np.float32)

    sha256 = hashlib.sha256(json.dumps(_state(transformer), sort_keys=True).encode()).hexdigest()
    preprocessing = {"numbers": len(numbers), "categories": len(categories), "missing": list(MISSING)}
    return Backbone(
        facts | {"fitted_sha256": sha256},
        preprocessing,
        ("scikit-learn", "pandas"),
        lambda item: item,
        features,
        tuple(notes),
    )


def _state(transformer: Any) -> dict[str, Any]:
    """Return all fitted values, JSON-ready."""
    columns, state = transformer["columns"], {"columns": list(transformer["columns"].feature_names_in_)}
    parts = columns.named_transformers_
    if "numbers" in parts:
        imputer, scaler = parts["numbers"]["missing"], parts["numbers"]["scaled"]
        state |= {"median": imputer.statistics_.tolist(), "indicated": imputer.indicator_.features_.tolist()}
        state |= {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
    if "categories" in parts:
        state["categories"] = [list(known) for known in parts["categories"].categories_]
    if "fourier" in transformer.named_steps:
        sampler = transformer["fourier"]
        state |= {"directions": sampler.random_weights_.tolist(), "phases": sampler.random_offset_.tolist()}
    return state


def _cells(
    numbers: Sequence[str], categories: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> dict[str, list[Cell]]:
    cells = {name: [_cell(name, record.get(name)) for record in records] for name in numbers}
    return cells | {name: [_category(name, record.get(name)) for record in records] for name in categories}


def _frame(
    numbers: Sequence[str], categories: Sequence[str], cells: Mapping[str, Sequence[Cell]]
) -> pd.DataFrame:
    columns: dict[str, Any] = {
        name: np.array([math.nan if cell is None else cell for cell in cells[name]], np.float64)
        for name in numbers
    }
    for name in categories:  # NaN for missing values, as in pandas
        columns[name] = np.array([math.nan if cell is None else cell for cell in cells[name]], object)
    return pd.DataFrame(columns)


def _cell(name: str, value: Any) -> Cell:
    """Return a number, a word, or None for a missing value.

    Raises:
        InputError: for values of other types, and for numbers that are not finite.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        word = printable(value).strip()
        if word.lower() in MISSING:
            return None
        try:
            number = math.nan if "_" in word else float(word)  # Python reads 1_000 as a number
        except ValueError:
            return word
        if math.isnan(number):
            return word
    elif isinstance(value, (int, float, decimal.Decimal)):
        number = float(value)
    else:
        raise InputError(
            f"column={name!r} must hold numbers or words, got a {type(value).__name__}: --drop {name}."
        )
    check(math.isfinite(number), f"column {name}", value, f"hold finite numbers (--drop {name})")
    return number


def _category(name: str, value: Any) -> str | None:
    """Return the name of a category: words unchanged, whole numbers without a decimal point; None if missing."""
    cell = _cell(name, value)
    if cell is None or isinstance(value, str):
        return None if cell is None else printable(value).strip()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _are_whole(values: Iterable[Any]) -> bool:
    return all(float(value).is_integer() for value in values)
