"""Errors in sources and arguments are reported before any network is loaded; these tests need none."""

import struct
import zlib

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.extract import Columns, ImageOptions, extract_features, packages
from jaxmia.extract.images import UnusableError, decode
from jaxmia.extract.rows import Row, Source
from jaxmia.extract.screening import Screened, screen
from jaxmia.extract.sources import open_source


def problems_of(source, **columns):
    opened = open_source(str(source), Columns(**columns))
    return dict(screen(opened, lambda count: None).problems)


BAD_CSV = {
    "one,two": "malformed row (2 fields instead of 3)",
    ",a,1": "empty text",
    "  ,a,1": "empty text",
    "fine,,1": "missing label",
    "fine,a,maybe": "member is neither true nor false",
    "fine,a,": "missing member",
    '"a"b,a,1': "malformed row (',' expected after '\"')",
    "\udcff,a,1": "malformed row (not UTF-8)",
    '"never closed,a,1': "malformed row (unexpected end of data)",
}


@pytest.mark.parametrize("line", BAD_CSV)
def test_a_bad_row_of_a_csv_is_named(tmp_path, line):
    lines = ["text,label,member", "good,a,1", "NA,007,false", line]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    assert problems_of(tmp_path / "t.csv", member="member") == {"2": BAD_CSV[line]}
    rows = open_source(str(tmp_path / "t.csv"), Columns(member="member")).rows
    assert rows[:2] == (
        Row("0", "a", True),
        Row("1", "007", False),
    )  # nothing is taken for a number or for missing


BAD_JSON = {
    '{"text": "x", "label": "a"': "malformed row (Expecting ',' delimiter)",
    '["x", "a"]': "malformed row (no object)",
    '{"label": "a"}': "missing text",
    '{"text": null, "label": "a"}': "missing text",
    '{"text": 3, "label": "a"}': "text is no string",
    '{"text": "x"}': "missing label",
    '{"text": "x", "label": 0.5}': "label is a fraction",
    '{"text": "x", "label": ["a"]}': "label is neither a name nor a number",
    '{"text": "\\ud800", "label": "a"}': "text is not Unicode",
}


@pytest.mark.parametrize("line", BAD_JSON)
def test_a_bad_line_of_json_is_named(tmp_path, line):
    (tmp_path / "t.jsonl").write_text('{"text": "good", "label": 1}\n\n' + line + "\n")
    assert problems_of(tmp_path / "t.jsonl") == {"1": BAD_JSON[line]}


def test_missing_values_of_parquet_and_ids_that_repeat_are_named(tmp_path):
    table = pd.DataFrame(
        {"id": ["a", "b", "a", None, "c"], "text": ["x", None, "y", "z", "w"], "label": [1.0, 2, 1, 2, None]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    assert problems_of(tmp_path / "t.parquet", id="id") == {
        "b": "missing text",
        "a": "duplicate id",
        "3": "missing id",
        "c": "missing label",
    }
    assert open_source(str(tmp_path / "t.parquet"), Columns(id="id")).rows[0].label == "1"


def image_bytes(tmp_path, suffix, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).convert(mode).save(tmp_path / f"image{suffix}")
    return (tmp_path / f"image{suffix}").read_bytes()


BAD_IMAGES = {
    "truncated.png": "truncated or damaged image (OSError)",
    "truncated.jpg": "truncated or damaged image (OSError)",
    "notes.txt": "not an image",
    "empty.png": "empty file",
    "deep.png": "pixels of more than 8 bits (mode I;16)",
}


@pytest.fixture
def images(tmp_path):
    """Two classes of two images each, and all kinds of bad files."""
    for name in ("cat", "dog/puppies"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for suffix in (".png", ".jpg"):
            (tmp_path / "pets" / name / f"good{suffix}").write_bytes(image_bytes(tmp_path, suffix))
    bad = tmp_path / "pets" / "dog"
    for suffix in (".png", ".jpg"):
        whole = image_bytes(tmp_path, suffix)
        (bad / f"truncated{suffix}").write_bytes(whole[: len(whole) // 2])
    (bad / "notes.txt").write_text("no pixels")
    (bad / "empty.png").touch()
    (bad / ".DS_Store").write_text("hidden files are left alone")
    (tmp_path / "pets" / "labels.csv").touch()
    PIL.Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(bad / "deep.png")
    return tmp_path / "pets"


def test_bad_images_are_named_and_nested_ones_belong_to_their_class(images):
    source = open_source(str(images), Columns())
    screened = screen(source, lambda count: None)
    assert dict(screened.problems) == {f"dog/{name}": reason for name, reason in BAD_IMAGES.items()}
    used = [source.rows[place] for place in screened.usable]
    assert [(row.id, row.label) for row in used] == [
        ("cat/good.jpg", "cat"),
        ("cat/good.png", "cat"),
        ("dog/puppies/good.jpg", "dog"),
        ("dog/puppies/good.png", "dog"),
    ]
    assert source.notes == ("Ignored, outside the folders of the classes: 1 files.",)
    assert screened.counts()["truncated or damaged image"] == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_of_8_bits_becomes_rgb(tmp_path, mode):
    from jaxmia.extract.images import decode

    suffix = ".tif" if mode == "CMYK" else ".png"
    assert np.asarray(decode(image_bytes(tmp_path, suffix, mode))).shape == (40, 40, 3)


def test_the_content_hash_follows_contents_labels_and_ids(tmp_path):
    def hash_of(text):
        (tmp_path / "t.csv").write_text(text)
        return screen(open_source(str(tmp_path / "t.csv"), Columns()), lambda count: None).content_hash

    first = hash_of("text,label\nx,a\ny,b\n")
    assert first == hash_of("label,text,other\na,x,1\nb,y,2\n")
    assert len({first, hash_of("text,label\nx,a\nz,b\n"), hash_of("text,label\nx,a\ny,a\n")}) == 3


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def folders(*names):
    return lambda folder: [(folder / "s" / name).mkdir(parents=True) for name in names]


@pytest.mark.parametrize(
    ("make", "source", "columns", "message"),
    [
        (write("x", ""), "none.csv", {}, "must be an existing folder or file; there is none"),
        (write("t.xlsx", ""), "t.xlsx", {}, "must be a folder, or end in one of .csv, .jsonl, .parquet"),
        (write("t.csv", ""), "t.csv", {}, "t.csv: column='text' must be one of"),
        (write("t.csv", "text,label\n"), "t.csv", {}, "must hold at least one row"),
        (write("t.csv", "text,labels\nx,a"), "t.csv", {}, "column='label' must be .* Did you mean 'labels'"),
        (
            write("t.csv", "text,label\nx,a"),
            "t.csv",
            {"id": "key"},
            "column='key' must be one of text, label",
        ),
        (write("t.csv", "text,label\nx,a"), "t.csv", {"member": "in"}, "column='in' must be one of"),
        (write("t.jsonl", '{"txt": "x", "label": 1}'), "t.jsonl", {}, "Did you mean 'txt'"),
        (write("t.parquet", "no Parquet"), "t.parquet", {}, "must be a readable .parquet file"),
        (folders(), ".", {}, "must have a sub-folder of images for each class"),
        (folders("train", "test"), "s", {}, "test, train are splits: give one"),
        (folders("cat", "dog"), "s", {}, "must hold at least one row"),
        (folders("cat", "dog"), "s", {"member": "in"}, "be left out: a folder of images has none"),
    ],
)
def test_bad_sources_are_refused(tmp_path, make, source, columns, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / source), Columns(**columns))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet50"}, "must be KIND:NAME or KIND:FOLDER"),
        ({"backbone": "tim:resnet50"}, "Did you mean 'timm'"),
        ({"backbone": "timm:/no/such/folder"}, "name an existing folder"),
        ({"weights": "none.pth"}, "weights='none.pth' must be an existing file"),
        ({"weights": __file__}, r"must end in .safetensors, .pth, .pt"),
        ({"backbone": "transformers:x", "weights": __file__}, "transformers takes a folder"),
        ({"backbone": "transformers:x", "images": ImageOptions(size=64)}, "be of timm for sizes"),
        ({"images": ImageOptions(size=0)}, "image_size=0 must be an integer of at least 1"),
        ({"images": ImageOptions(mean=(0.5, 0.5))}, "mean=.* must be one number or three"),
        ({"images": ImageOptions(std=(0.0,))}, "std=.* must be above 0"),
        ({"images": ImageOptions(crop_pct=87.5)}, "crop_pct=87.5 must lie in 0 .. 1"),
        ({"images": ImageOptions(interpolation="cubic")}, "Did you mean 'bicubic'"),
        ({"dtype": "float64"}, "dtype='float64' must be one of"),
        ({"on_error": "ignore"}, "on_error='ignore' must be one of"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"out": "features.npy"}, "must end in .npz"),
        ({"out": "no/such/folder/f.npz"}, "be a file in a folder that exists"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    arguments = {"source": "none", "backbone": "timm:resnet18", "out": "f.npz"} | options
    with pytest.raises(InputError, match=message):
        extract_features(**arguments)


def test_files_that_no_extraction_wrote_are_not_replaced(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.zeros((2, 2)))
    with pytest.raises(InputError, match="there is one that no extraction wrote"):
        extract_features(tmp_path, "timm:resnet18", tmp_path / "f.npz")


def test_what_is_not_installed_is_said_with_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    code, _, error = jaxmia(
        capsys, "extract", tmp_path, "--backbone", "timm:resnet18", "--out", tmp_path / "f.npz", columns=400
    )
    assert code == 2
    assert error == "error: jaxmia extract needs torch here: pip install 'jaxmia[extract]'.\n"


def test_features_must_be_finite_in_what_they_are_stored_as():
    from jaxmia.extract.usable import check_finite

    source = Source("s", "text", (Row("x"), Row("y")), str)
    screened = Screened((0, 1), (), "")
    features = np.array([[1, 2], [3, 70_000]], np.float32)
    check_finite(features, "float32", source, screened)
    with pytest.raises(InputError, match=r"finite in float16; those of 1 items are not \(first: 'y'\)"):
        check_finite(features, "float16", source, screened)
    features[0, 0] = np.nan
    with pytest.raises(InputError, match="first: 'x'"):
        check_finite(features, "float32", source, screened)


def labels_of(folder, lines):
    from jaxmia.extract.usable import labels_of

    (folder / "t.csv").write_text("\n".join(["text,label", *lines]))
    source = open_source(str(folder / "t.csv"), Columns())
    return labels_of(source, screen(source, lambda count: None))


def test_classes_stand_in_the_order_of_their_numbers_or_names(tmp_path):
    names, labels = labels_of(tmp_path, ["x,10", "y,9", "z,100"])
    assert names == ("9", "10", "100")
    assert labels.tolist() == [1, 0, 2]
    assert labels_of(tmp_path, ["x,10", "y,9", "z,b"])[0] == ("10", "9", "b")
    with pytest.raises(InputError, match=r"t.csv: classes=\['a'\] must be at least 2"):
        labels_of(tmp_path, ["x,a", "y,a", " ,b"])


def tables(tmp_path, frame):
    frame.to_csv(tmp_path / "t.CSV", index=False)
    frame.to_parquet(tmp_path / "t.PARQUET")
    return [
        open_source(str(tmp_path / name), Columns(member="m", id="id")).rows
        for name in ("t.CSV", "t.PARQUET")
    ]


@pytest.mark.parametrize(
    ("label", "member", "labels"),
    [
        ([0.0, 1.0], [1.0, 0.0], ["0", "1"]),
        ([-1, 1], [1, 0], ["-1", "1"]),
        (["007", "2.10"], [True, False], ["007", "2.10"]),
        ([True, False], ["true", "FALSE"], ["True", "False"]),
    ],
)
def test_csv_and_parquet_are_read_alike(tmp_path, label, member, labels):
    frame = pd.DataFrame({"text": ["a", "b"], "label": label, "m": member, "id": [1.0, 2.0]})
    csv, parquet = tables(tmp_path, frame)
    assert csv == parquet
    assert [row.label for row in csv] == labels
    assert [row.member for row in csv] == [True, False]


def test_ids_and_labels_of_bytes_are_read_as_text(tmp_path):
    frame = pd.DataFrame(
        {"text": ["a", "b"], "label": [b"x", b"\xff"], "m": [1, 0], "id": [b"r1", b"caf\xe9"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    rows = open_source(str(tmp_path / "t.parquet"), Columns(member="m", id="id")).rows
    assert [(row.id, row.label) for row in rows] == [("r1", "x"), ("caf\\xe9", "\\xff")]


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text("text,label,label\na,cat,x\n")
    with pytest.raises(InputError, match=r"column='label' must occur once, but 2 columns"):
        open_source(str(tmp_path / "d.csv"), Columns())
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table([["a"], ["cat"], ["x"]], names=["text", "label", "label"]), tmp_path / "d.parquet"
    )
    with pytest.raises(InputError, match=r"column='label' must occur once, but 2 columns"):
        open_source(str(tmp_path / "d.parquet"), Columns())
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": "cat", "label": "x"}\n')
    assert problems_of(tmp_path / "d.jsonl") == {"0": "malformed row (a key is given twice)"}
    (tmp_path / "other.csv").write_text("text,label,note,note\na,cat,x,y\n")
    assert not problems_of(tmp_path / "other.csv")  # no one asks for these


@pytest.mark.parametrize(
    ("mark", "encoding"), [(",", "utf-16"), (",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8")]
)
def test_a_csv_of_another_program_is_read_or_refused_with_what_to_do(tmp_path, mark, encoding):
    (tmp_path / "t.csv").write_text(f"text{mark}label\na{mark}é\n", encoding=encoding)
    if mark == ",":
        assert open_source(str(tmp_path / "t.csv"), Columns()).rows == (Row("0", "é"),)
    else:
        with pytest.raises(InputError, match="must have commas between its columns"):
            open_source(str(tmp_path / "t.csv"), Columns())


def test_links_to_nothing_and_folders_that_cannot_be_read_are_named(images, monkeypatch):
    (images / "cat" / "gone.png").symlink_to("/gone/gone.png")
    (images / "cat" / "folder").symlink_to(images / "dog", target_is_directory=True)
    found = problems_of(images)
    assert found["cat/gone.png"] == "link to nothing"
    assert found["cat/folder"] == "link to a folder"


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pixels_of_16_bits_are_not_cut_to_8_in_silence(color, channels):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, color, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + struct.pack(">H", 0x0180) * 2 * channels for _ in range(2)))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    with pytest.raises(UnusableError, match="pixels of more than 8 bits"):
        decode(content)


@pytest.mark.parametrize(("most", "wide"), [(65535, True), (255, False)])
def test_a_pixmap_of_16_bits_is_refused_and_one_of_8_is_not(most, wide):
    content = b"P6 2 2 %d\n" % most + bytes(12 * (1 + wide))
    if wide:
        with pytest.raises(UnusableError, match="pixels of more than 8 bits"):
            decode(content)
    else:
        assert decode(content).size == (2, 2)


def test_folders_in_those_of_classes_are_persons_if_they_are_said_to_be(tmp_path):
    for place in ("cat/ann/a.png", "cat/ann/more/b.png", "cat/bob/a.png", "dog/ann/a.png", "dog/stray.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    found = open_source(str(tmp_path), Columns(), person_folders=True)
    assert {row.id: (row.label, row.person) for row in found.rows if not row.problem} == {
        "cat/ann/a.png": ("cat", "ann"),
        "cat/ann/more/b.png": ("cat", "ann"),
        "cat/bob/a.png": ("cat", "bob"),
        "dog/ann/a.png": ("dog", "ann"),
    }
    assert {row.id: row.problem for row in found.rows if row.problem} == {
        "dog/stray.png": "not in a person's folder"
    }
    assert "person" in found.columns
    plain = open_source(str(tmp_path), Columns())
    assert all(row.person is None for row in plain.rows)
    assert not plain.columns
    (tmp_path / "t.csv").write_text("text,label,who\nx,a,007\ny,b,1\n")
    with pytest.raises(InputError, match="only of a folder of images can folders be persons"):
        open_source(str(tmp_path / "t.csv"), Columns(), person_folders=True)
    with pytest.raises(InputError, match="be left out: a folder of images has none"):
        open_source(str(tmp_path), Columns(person="who"))


def test_persons_of_a_table_enter_its_hash_and_keep_their_names(tmp_path):
    def screened(text, **columns):
        (tmp_path / "t.csv").write_text(text)
        source = open_source(str(tmp_path / "t.csv"), Columns(**columns))
        return source, screen(source, lambda count: None).content_hash

    first, of_first = screened("text,label,who\nx,a,007\ny,b,1.0\n", person="who")
    assert [row.person for row in first.rows] == ["007", "1"]
    _, other = screened("text,label,who\nx,a,007\ny,b,2\n", person="who")
    _, without = screened("text,label,who\nx,a,007\ny,b,2\n")
    assert len({of_first, other, without}) == 3
    assert problems_of(tmp_path / "t.csv", person="who") == {}
    (tmp_path / "t.csv").write_text("text,label,who\nx,a,\ny,b,2.5\n")
    assert problems_of(tmp_path / "t.csv", person="who") == {"0": "missing person"}
