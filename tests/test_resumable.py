"""Folders that continue after a kill: their identity, their lock, and their missing blocks."""

import numpy as np
import pytest

from jaxmia._resumable import Blocks, keyed_folder
from jaxmia._validate import InputError

WORDS = {"name": "out='x'", "content": "an audit", "other": "another one (its {differs} differs)."}


def test_a_folder_goes_on_under_its_key_alone(tmp_path):
    key = {"features": "abc", "widths": (1, 2)}
    for _ in range(2):
        with keyed_folder(tmp_path / "a" / "b", key, inside="blocks", **WORDS):
            (tmp_path / "a" / "b" / "table").touch()  # of a later step
    with (
        pytest.raises(InputError, match=r"out='x' holds another one \(its widths differs\)"),
        keyed_folder(tmp_path / "a" / "b", key | {"widths": (1, 3)}, inside="blocks", **WORDS),
    ):
        pytest.fail("let in")
    blocks = tmp_path / "a" / "b" / "blocks"
    (blocks / "key.json").write_text("{")
    with keyed_folder(tmp_path / "a" / "b", key, inside="blocks", **WORDS):  # of its copy
        assert (blocks / "key.json").read_bytes() == (blocks / ".key.json").read_bytes()
    for name in ("key.json", ".key.json"):
        (blocks / name).write_text("{")
    with (
        pytest.raises(InputError, match=r"it has other files, and its key.json is empty or damaged"),
        keyed_folder(tmp_path / "a" / "b", key, inside="blocks", **WORDS),
    ):
        pytest.fail("let in")


@pytest.mark.parametrize("place", ["thesis.tex", "blocks/items-0-3.npz"])
def test_a_foreign_folder_is_left_as_it_is(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(InputError, match=r"out='x' must be empty or hold an audit; it has other files"),
        keyed_folder(tmp_path, {}, inside="blocks", **WORDS),
    ):
        pytest.fail("let in")
    assert sorted(tmp_path.rglob("*")) == before
    with (
        pytest.raises(InputError, match="must be a folder, but it is a file"),
        keyed_folder(tmp_path / place, {}, **WORDS),
    ):
        pytest.fail("let in")


def test_another_process_cannot_hold_it_too(tmp_path):
    with (
        keyed_folder(tmp_path, {}, **WORDS),
        pytest.raises(InputError, match="out='x' is in use by another process"),
        keyed_folder(tmp_path, {}, **WORDS),
    ):
        pytest.fail("let in")


def test_blocks_that_lack_something_or_are_damaged_are_missing(tmp_path):
    arrays = {"a": np.arange(7.0), "b": np.arange(14).reshape(7, 2)}
    blocks = Blocks(tmp_path, "items", 7, 3, ("a", "b"))
    assert blocks.missing() == [(0, 3), (3, 6), (6, 7)]
    for first, end in blocks.missing():
        blocks.save(
            (first, end), {name: values[first:end] for name, values in arrays.items()} | {"c": arrays}
        )
    assert blocks.missing() == []
    loaded = blocks.load()
    assert loaded.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(loaded[name], values)
    (tmp_path / "items-0-3.npz").write_bytes(b"PK")
    (tmp_path / "items-3-6.npz").write_bytes(b"")
    assert blocks.missing() == [(0, 3), (3, 6)]
    assert Blocks(tmp_path, "items", 7, 3, ("a", "c")).missing() == [(0, 3), (3, 6), (6, 7)]
