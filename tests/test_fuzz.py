"""Fuzzing: a reader accepts a file, or refuses it with one line and writes nothing, whatever the file contains.

Every target starts from its own valid files. They are damaged (bytes flipped, removed, repeated, cut off) or filled
with other arrays, tables and settings. `pytest -m slow tests/test_fuzz.py -s` tries 10 000 inputs.
"""

import csv
import dataclasses
import io
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit import run as audit
from jaxmia.audit.released import load_released
from jaxmia.audit.settings import TEMPLATE, load_audit
from jaxmia.data.feature_set import feature_set, load_features
from jaxmia.extract.rows import Columns
from jaxmia.extract.screening import screen
from jaxmia.extract.sources import open_source
from jaxmia.ridge import triage
from jaxmia.studies.settings.toml import load_config, load_sweep

RNG = np.random.default_rng(0)
RIGHT = {
    "features": RNG.normal(size=(12, 3)).astype(np.float32),
    "labels": np.arange(12) % 2,
    "member": np.arange(12) % 3 == 0,
    "ids": np.array([f"r{i}" for i in range(12)]),
    "class_names": np.array(["a", "b"]),
}
DATA = feature_set(RIGHT["features"], RIGHT["labels"])
SCORES = {
    "log_odds": RNG.normal(size=(4, 12)),
    "labels": RIGHT["labels"],
    "member": RNG.random((4, 12)) < 0.5,
    "target": np.array(1),
}
HEAD = {"weight": RNG.normal(size=(2, 3)), "bias": RNG.normal(size=2)}


class ReachedError(Exception):
    """All input was accepted, and the work would begin now."""


def npz(arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def safetensors_head():
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    return numpy.save({name: array.astype(np.float32) for name, array in HEAD.items()})


def skops_head():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    skops = pytest.importorskip("skops.io", reason="skops is not installed")
    return skops.dumps(linear.LogisticRegression().fit(RIGHT["features"], RIGHT["labels"]))


def parquet_table():
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0.0, 1.0], "m": [1, 0]}), file)
    return file.getvalue()


WORDS = st.one_of(
    st.text(max_size=8), st.sampled_from(["a", "1", "1.0", "007", "nan", "true", "", "\ufeff", '"'])
)
DTYPES = st.one_of(
    npst.floating_dtypes(endianness="?"),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(),
    npst.boolean_dtypes(),
    npst.unicode_string_dtypes(max_len=4),
    npst.byte_string_dtypes(max_len=4),
    npst.complex_number_dtypes(),
    npst.datetime64_dtypes(),
)
SHAPES = st.one_of(
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    st.sampled_from([(12,), (12, 3), (4, 12), (4, 12, 2), (12, 1), (12, 2), (2, 3), (2,), (3, 2)]),
)
ARRAYS = npst.arrays(DTYPES, SHAPES, fill=st.nothing())


@st.composite
def damaged(draw, content):
    """A file with a few bytes flipped, removed or repeated, or its end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "cut", "double", "end", "insert"]))
        length = draw(st.integers(1, 64))
        if how == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[at : at + length]
        elif how == "double":
            data[at:at] = data[at : at + length]
        elif how == "end":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


@st.composite
def other_arrays(draw, right):
    """The right arrays with some replaced, renamed or left out."""
    arrays = dict(right)
    for name in draw(st.lists(st.sampled_from(sorted(right)), min_size=1, max_size=3)):
        how = draw(st.sampled_from(["other", "other", "none", "float", "text", "column"]))
        if how == "none":
            arrays.pop(name, None)
        elif how == "other" or name not in arrays:
            arrays[name] = draw(ARRAYS)
        elif how == "column":
            arrays[name] = arrays[name][..., None]
        else:
            kind = float if how == "float" and arrays[name].dtype.kind not in "USMmc" else str
            arrays[name] = arrays[name].astype(kind) if arrays[name].dtype.kind != "S" else arrays[name]
    return npz(arrays)


def of_npz(right, **also):
    return st.one_of(damaged(npz(right)), other_arrays(right), other_arrays({**right, **also}))


@st.composite
def csv_tables(draw):
    rows = draw(st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=5))
    text = io.StringIO()
    csv.writer(text).writerows(
        [draw(st.sampled_from([["text", "label", "m"], ["label"], ["text;label"]])), *rows]
    )
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.getvalue().encode(encoding, "replace")


JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["text", "label", "m", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
JSON_LINES = st.lists(JSONS, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
EXPERIMENT = b"""[data]
features = "f.npz"
[grid]
classes = [2]
shots = [8]
[privacy]
epsilon = [inf, 1.0]
[train]
steps = 5
batch_size = "full"
"""
SWEEP = (
    EXPERIMENT
    + b"""[[recipes]]
name = "a"
[[datasets]]
name = "b"
features = "~/x.npz"
"""
)
KEYS = st.sampled_from(
    [
        "train.steps",
        "data",
        "data.features",
        "grid.shots",
        "fpr",
        "attack",
        "recipes.a.steps",
        "head.file",
        "x",
    ]
)
OVERRIDES = st.builds("{}={}".format, KEYS, st.one_of(WORDS, JSONS.map(json.dumps)))


def of_toml(right):
    lines = st.lists(st.one_of(st.sampled_from(right.split(b"\n")), WORDS.map(str.encode)), max_size=12)
    return st.one_of(damaged(right), lines.map(b"\n".join))


@dataclasses.dataclass(frozen=True)
class Target:
    """A file's name, its possible contents, and its reader."""

    name: str
    contents: Callable[[], st.SearchStrategy[bytes]]
    read: Callable[[pathlib.Path], object]


def read_table(path):
    return screen(open_source(str(path), Columns(member="m", id="label")), lambda count: None)


def read_images(path):
    (path.parent / "a").mkdir()
    path.rename(path.parent / "a" / path.name)
    screen(open_source(str(path.parent), Columns()), lambda count: None)


def audited(path):
    text = TEMPLATE.replace('"features.npz"', f'"{path.name}"').replace("head.safetensors", "head.npz")
    (path.parent / "audit.toml").write_text(text)
    np.savez(path.parent / "head.npz", **HEAD)
    before = sorted(path.parent.rglob("*"))
    try:
        audit.run_audit(path.parent / "audit.toml", path.parent / "out")
    except InputError:
        assert sorted(path.parent.rglob("*")) == before
        raise


def attacked(path):
    attack_run.attack_scores(path, path.parent / "out", fpr=[0.5])


def png():
    PIL_Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")  # noqa: N806
    file = io.BytesIO()
    PIL_Image.new("RGB", (4, 4)).save(file, "png")
    return file.getvalue()


TARGETS = {
    "features": Target("f.npz", lambda: of_npz(RIGHT), load_features),
    "triage": Target(
        "f.npz", lambda: of_npz(RIGHT), lambda path: triage.triage_features(path, out=path.parent / "out.csv")
    ),
    "audit": Target("f.npz", lambda: of_npz(RIGHT), audited),
    "scores": Target(
        "s.npz",
        lambda: of_npz(SCORES, logits=np.zeros((4, 12, 2))),
        attacked,
    ),
    "head.npz": Target(
        "h.npz", lambda: of_npz(HEAD, logits=np.zeros((12, 2))), lambda path: load_released(path, DATA)
    ),
    "head.safetensors": Target(
        "h.safetensors", lambda: damaged(safetensors_head()), lambda path: load_released(path, DATA)
    ),
    "head.skops": Target("h.skops", lambda: damaged(skops_head()), lambda path: load_released(path, DATA)),
    "csv": Target("t.CSV", lambda: st.one_of(csv_tables(), st.binary(max_size=40)), read_table),
    "jsonl": Target(
        "t.jsonl", lambda: st.one_of(JSON_LINES, damaged(b'{"text": "a", "label": 1}')), read_table
    ),
    "parquet": Target("t.parquet", lambda: damaged(parquet_table()), read_table),
    "images": Target("1.png", lambda: damaged(png()), read_images),
    "experiment": Target("c.toml", lambda: of_toml(EXPERIMENT), load_config),
    "sweep": Target("c.toml", lambda: of_toml(SWEEP), load_sweep),
    "audit file": Target("c.toml", lambda: of_toml(TEMPLATE.encode()), load_audit),
}


def refusal_of(read, *arguments):
    """The error message of a reader; None if it accepts its input."""
    try:
        read(*arguments)
    except InputError as error:
        return str(error)
    except ReachedError:
        pass
    return None


def tried(target, examples, monkeypatch):
    """Numbers of inputs that were read, and that were refused."""
    stop = lambda *args, **options: (_ for _ in ()).throw(ReachedError)  # noqa: E731
    monkeypatch.setattr(audit, "fit_recipe_once", stop)
    monkeypatch.setattr(attack_run, "write_attacks", stop)
    monkeypatch.setattr(triage, "analytic_vulnerability", stop)
    counts = {"read": 0, "refused": 0}

    @seed(0)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.contents())
    def one(content):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / target.name
            path.write_bytes(content)
            refusal = refusal_of(target.read, path)
            counts["read" if refusal is None else "refused"] += 1
            if refusal is not None:
                assert len(refusal) < 4000
                left = {entry.name for entry in path.parent.iterdir()}
                assert left <= {target.name, "a", "audit.toml", "head.npz"}

    one()
    return counts


@pytest.mark.parametrize("name", TARGETS)
def test_no_file_ends_in_a_traceback(name, monkeypatch):
    counts = tried(TARGETS[name], 15, monkeypatch)
    assert counts["refused"] > 0 or name in ("csv", "images")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_files_end_in_no_traceback(name, monkeypatch):
    counts = tried(TARGETS[name], -(-10_000 // len(TARGETS)), monkeypatch)
    print(f"{name}: {counts['read']} read, {counts['refused']} refused")


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(override=OVERRIDES)
def test_no_override_ends_in_a_traceback(override):
    for load in (load_config, load_sweep):
        assert "\n" not in (refusal_of(load, "smoke", [override]) or "")
