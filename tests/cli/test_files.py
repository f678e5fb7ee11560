"""Files: read up to a limit, written completely or not at all, and checked before any work."""

import os
import pathlib
import stat
import zipfile

import numpy as np
import pytest
from commands import jaxmia

import jaxmia as jm
from jaxmia import _atomic
from jaxmia._atomic import check_writable, replacing
from jaxmia._npz import check_archive, read_npz
from jaxmia._validate import InputError
from jaxmia.audit.attack_scores import attack_scores
from jaxmia.data.feature_set import load_features

RIGHT = {"features": np.ones((4, 2), np.float32), "labels": np.array([0, 1, 0, 1])}


def lying(path, *, shape, size=None):
    """An archive whose header states another shape than its data has."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00\x76\x00" + header.encode()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w") as file,
    ):
        file.write(content + bytes(8 if size is None else size))


def test_a_header_that_lies_is_found_before_memory_is_taken(tmp_path):
    lying(tmp_path / "f.npz", shape=(10**9, 10**6))
    with pytest.raises(
        InputError, match=r"'features' is said to hold 4,000,000,000,000,000 bytes, and has 8"
    ):
        read_npz(tmp_path / "f.npz", name="features", required=("features",))


def test_a_bomb_is_not_unpacked_above_the_limit(tmp_path):
    np.savez_compressed(tmp_path / "f.npz", **RIGHT | {"features": np.zeros((4, 2**19), np.float32)})
    assert (tmp_path / "f.npz").stat().st_size < 2**16
    with (
        jm.read_limit("4MiB"),
        pytest.raises(InputError, match=r"above the limit of 0.00391 GiB.*--read-limit"),
    ):
        load_features(tmp_path / "f.npz")
    assert load_features(tmp_path / "f.npz").features.shape == (4, 2**19)
    with (
        pytest.raises(InputError, match="read limit='much' must be a number of bytes"),
        jm.read_limit("much"),
    ):
        pass


def test_a_bomb_of_another_archive_is_not_unpacked_above_the_limit(tmp_path):
    with zipfile.ZipFile(tmp_path / "h.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", "{}")
        archive.writestr("1.npy", bytes(2**20))
    with jm.read_limit("1MB"), pytest.raises(InputError, match="above the limit"):
        check_archive(tmp_path / "h.skops")
    lying(tmp_path / "h.skops", shape=(10**9, 10**6))
    with pytest.raises(InputError, match="is said to hold"):
        check_archive(tmp_path / "h.skops")


def test_the_limit_is_an_option_of_commands_and_ends_with_them(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmia.ridge.triage.analytic_vulnerability", refusing)
    np.savez(tmp_path / "f.npz", **RIGHT)
    words = ["triage", tmp_path / "f.npz", "--fpr", "0.1"]
    code, _, err = jaxmia(capsys, *words, "--read-limit", "50B")
    assert (code, err.count("\n")) == (2, 1)
    assert "--read-limit" in err
    assert jaxmia(capsys, *words)[2] == "error: permission denied.\n"  # by what comes after reading


def test_a_bomb_of_parquet_is_not_unpacked_above_the_limit(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jaxmia.extract import Columns
    from jaxmia.extract.sources import open_source

    pq.write_table(
        pa.table({"text": ["a" * 100] * 9999, "label": ["b"] * 9999}),
        tmp_path / "t.parquet",
        use_dictionary=False,
    )
    with jm.read_limit("100kB"), pytest.raises(InputError, match="above the limit"):
        open_source(str(tmp_path / "t.parquet"), Columns())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"steps = 5\n", "it is a text"),
        (b"\x80\x04\x95", "looks like a pickle, which is never loaded"),
        (b"\x00\x01\x02\xff", "it is another file"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (b"\x93NUMPY\x01\x00", r"a single .npy array: save it with np.savez"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "f.npz")


def test_the_key_that_holds_objects_is_named(tmp_path):
    ids = np.array(["a", "b", "c", "d"], object)
    np.savez(tmp_path / "f.npz", **RIGHT, ids=ids)
    assert load_features(tmp_path / "f.npz").num_classes == 2  # no one asks for it
    with pytest.raises(InputError, match=r"'ids' has pickled objects.*save ids.astype\(str\)"):
        jm.triage_features(tmp_path / "f.npz")


def test_what_is_written_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(
        _atomic.os, "fsync", lambda handle: order.append(stat.S_ISDIR(os.fstat(handle).st_mode))
    )
    replace = os.replace
    monkeypatch.setattr(_atomic.os, "replace", lambda *args: (order.append("replace"), replace(*args)))
    _atomic.write_json(tmp_path / "a.json", {})
    assert order == [False, "replace", True]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(TypeError), replacing(tmp_path / "a") as temporary:
        temporary.write_text(None)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def refusing(*args, **options):
    raise PermissionError(13, "Permission denied")


def test_whether_a_file_can_be_written_is_asked_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="must be a file in a folder that exists"):
        check_writable(tmp_path / "none" / "a.csv")
    with pytest.raises(InputError, match="must be a file in a folder that exists"):
        check_writable(tmp_path)
    monkeypatch.setattr(pathlib.Path, "touch", refusing)
    with pytest.raises(InputError, match="must be a file that can be written: Permission denied"):
        check_writable(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "words",
    [
        ["triage", "FEATURES", "--out", "ro/x.csv"],
        ["tune", "smoke", "--set", "grid.shots=[8]", "--set", "tuning.trials=1", "--out", "ro/t.toml"],
        ["report", "FOLDER", "--out", "ro/x.html"],
        ["fit", "FOLDER", "--out", "ro/x.json"],
        ["extract", "FOLDER", "--backbone", "timm:x", "--out", "ro/x.npz"],
        ["attack", "FEATURES", "--out", "ro/x"],
        ["run", "smoke", "--out", "ro/x"],
        ["sweep", "smoke", "--out", "ro/x"],
    ],
)
def test_every_command_asks_before_the_work(capsys, tmp_path, monkeypatch, words):
    (tmp_path / "ro").mkdir()
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "f.npz", **RIGHT)
    places = {"FEATURES": tmp_path / "f.npz", "FOLDER": tmp_path / "folder"}
    monkeypatch.chdir(tmp_path)
    mkdir = pathlib.Path.mkdir
    inside = lambda path: "ro" in path.resolve().relative_to(tmp_path).parts  # noqa: E731
    monkeypatch.setattr(
        pathlib.Path,
        "mkdir",
        lambda path, *args, **options: refusing() if inside(path) else mkdir(path, *args, **options),
    )
    monkeypatch.setattr(pathlib.Path, "touch", refusing)
    for work in (
        "training.ensemble.train_ensemble",
        "ridge.expected.analytic_vulnerability",
        "studies.laws.fit_laws",
    ):
        monkeypatch.setattr(f"jaxmia.{work}", lambda *args, **options: pytest.fail("worked"))
    code, _, err = jaxmia(capsys, *(places.get(word, word) for word in words))
    assert code == 2
    assert err.count("\n") == 1
    assert "Permission denied" in err


def test_errors_of_the_operating_system_are_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmia.ridge.triage.load_features", refusing)
    assert jaxmia(capsys, "triage", "x.npz")[::2] == (2, "error: permission denied.\n")

    def full(*args, **options):
        raise OSError(28, "No space left on device", "x.csv")

    monkeypatch.setattr("jaxmia.ridge.triage.load_features", full)
    assert jaxmia(capsys, "triage", "x.npz")[2] == "error: x.csv: no space left on device.\n"


def test_memory_that_runs_out_is_one_line(capsys, monkeypatch):
    def out_of_memory(*args, **options):
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr("jaxmia.ridge.triage.load_features", out_of_memory)
    code, _, err = jaxmia(capsys, "triage", "x.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "Unable to allocate 1 TiB" in err


def test_a_device_that_is_not_there_is_one_line(capsys, monkeypatch):
    import jax

    def missing():
        raise RuntimeError("Unable to initialize backend 'cuda': no GPU")

    def broken(*args, **options):
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jaxmia.ridge.triage.load_features", broken)
    monkeypatch.setattr(jax, "devices", missing)
    code, _, err = jaxmia(capsys, "triage", "x.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "JAX_PLATFORMS='cuda' asks for it" in err
    monkeypatch.undo()


def test_two_that_fill_one_folder_exclude_each_other_and_a_killed_one_leaves_nothing(tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "left").write_text("by a killed process")
    with _atomic.new_folder(tmp_path / "out") as folder:
        assert [path.name for path in folder.iterdir()] == [".lock"]
        (folder / "a").write_text("mine")
        with (
            pytest.raises(InputError, match=r"out' is in use by another process"),
            _atomic.new_folder(tmp_path / "out"),
        ):
            pytest.fail("let in")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    with pytest.raises(InputError, match="there is something already"), _atomic.new_folder(tmp_path / "out"):
        pytest.fail("let in")


def test_attacks_on_scores_that_are_wrong_leave_nothing(tmp_path):
    np.savez(tmp_path / "s.npz", member=np.ones((3, 4), bool), log_odds=np.full((3, 4), np.nan))
    with pytest.raises(InputError, match="finite"):
        attack_scores(tmp_path / "s.npz", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_an_audit_holds_its_folder(tmp_path):
    from jaxmia.audit.shadows import open_folder

    with (
        open_folder(tmp_path / "out", "key"),
        pytest.raises(InputError, match="is in use by another process"),
        open_folder(tmp_path / "out", "key"),
    ):
        pytest.fail("let in")
    with open_folder(tmp_path / "out", "key"):
        pass
    with (
        pytest.raises(InputError, match="holds the audit of another"),
        open_folder(tmp_path / "out", "other"),
    ):
        pytest.fail("let in")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with (
        pytest.raises(InputError, match="must be empty or hold an audit"),
        open_folder(tmp_path / "foreign", "key"),
    ):
        pytest.fail("let in")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["file"]
