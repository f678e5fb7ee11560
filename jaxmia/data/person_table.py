"""A table of persons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxmia.data.persons import grouped, main_class


def persons_of(person: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Return one row per person, ascending by name: person, num_records, class_name (of most of them), num_classes.

    Args:
        person: [examples], as jaxmia.data.persons.checked_persons returns it.
        labels: int[examples].
        class_names: by label.
    """
    names, whose, records = grouped(person)
    pairs = np.unique(np.stack([whose, np.asarray(labels, np.int64)]), axis=1)
    return pd.DataFrame(
        {
            "person": names.astype(str),
            "num_records": records,
            "class_name": np.array(class_names)[main_class(whose, np.asarray(labels))],
            "num_classes": np.bincount(pairs[0], minlength=len(names)),
        }
    )
