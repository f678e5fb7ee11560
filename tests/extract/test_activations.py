"""`jaxmia extract --activations`: what is in the folder, killed and resumed, and what is refused in one line."""

import json

import numpy as np
import pytest
from commands import jaxmia
from references_adapters import publish, slow_bert, small_bert, told_apart

from jaxmia._validate import InputError
from jaxmia.data.feature_set import load_features
from jaxmia.extract import activations as module
from jaxmia.extract.activations import extract_activations
from jaxmia.extract.published import published_bert
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import adapter_inputs, pooled_features

pytest.importorskip("safetensors", reason="published weights are safetensors")
BERT = small_bert(unit=True)


@pytest.fixture
def texts(tmp_path):
    ids, labels = told_apart(10)
    padded = np.pad(ids, ((0, 0), (0, 2))).astype(np.int32)  # longer than the longest text
    np.savez(
        tmp_path / "texts.npz",
        raw=padded,
        labels=labels,
        class_names=["a", "b"],
        ids=np.arange(10).astype(str),
    )
    return tmp_path / "texts.npz"


@pytest.fixture
def network(tmp_path):
    return publish(BERT, tmp_path / "network", prefix="bert.")


def extracted(texts, network, out, k=1, **options):
    return extract_activations(texts, f"sentence-transformers:{network}", out, activations=k, **options)


def test_the_published_network_is_read_under_any_prefix(network):
    found = published_bert(network, sentence=True)
    assert found.shape == BERT.shape
    assert found.weights.keys() == BERT.weights.keys()
    assert not published_bert(network, sentence=False).shape.unit


@pytest.mark.parametrize("k", [0, 1])
def test_the_folder_has_inputs_weights_and_the_extractors_features(texts, network, tmp_path, k):
    ids, labels = told_apart(10)
    done = extracted(texts, network, tmp_path / "out", k)
    assert (done.examples, done.tokens, done.computed) == (10, 6, 10)
    assert done.bytes == (10 * 6 * 9 * 2 if k else 10 * 6 * 4)
    plain, data = load_features(tmp_path / "out"), load_features(tmp_path / "out", inputs="activations")
    np.testing.assert_allclose(plain.features, slow_bert(BERT, ids), atol=5e-3 if k else 1e-5)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.class_names == ("a", "b")
    assert data.backbone.frozen == k
    assert ("embeddings.LayerNorm.weight" in data.backbone.weights) == (k == 0)
    assert not any(".layer.0." in name for name in data.backbone.weights) or k == 0
    inputs = adapter_inputs(Adapter("film"), data)
    np.testing.assert_allclose(pooled_features(inputs, {}), plain.features, atol=1e-5)
    assert isinstance(data.features, np.memmap) == (k == 1)  # activations stay on disk
    assert "are special tokens, as [CLS] and [SEP], missing?" in done.notes[0]  # these texts have none
    again = extracted(texts, network, tmp_path / "out", k)
    assert again.computed == 0


def test_a_killed_extraction_ends_with_the_same_bytes(texts, network, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)
    extracted(texts, network, tmp_path / "whole")
    calls, real = [], module._Writing._of

    def killed(self, some):
        calls.append(len(some))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, some)

    monkeypatch.setattr(module._Writing, "_of", killed)
    with pytest.raises(KeyboardInterrupt):
        extracted(texts, network, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module._Writing, "_of", real)
    assert extracted(texts, network, tmp_path / "out").computed == 6
    for file in sorted((tmp_path / "whole").iterdir()):
        if file.suffix == ".npy":
            assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    a, b = (load_features(tmp_path / name, inputs="activations").content_hash() for name in ("whole", "out"))
    assert a == b
    assert not (tmp_path / "out.parts").exists()


def test_the_command_says_the_size_first(texts, network, tmp_path, capsys):
    arguments = [str(texts), "--backbone", f"sentence-transformers:{network}", "--activations", "1"]
    code, _, said = jaxmia(capsys, "extract", *arguments, "--out", tmp_path / "out", "--tokens", "4")
    assert code == 0, said
    assert "10 items of 4 x 9 float16, inputs of block 1: 720 bytes" in " ".join(said.split())
    assert load_features(tmp_path / "out", inputs="activations").input_shape == (4, 9)
    for command in ("triage", "advise"):
        code, _, said = jaxmia(capsys, command, tmp_path / "out")
        assert code == 2
        assert f"to which {command} does not apply" in " ".join(said.split())


def drop(tensors, name):
    return {key: value for key, value in tensors.items() if not key.endswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: drop(t, "1.output.dense.bias"),
            r"missing weights=\['encoder.layer.1.output.dense.bias'\] must be none",
        ),
        (
            lambda t: t | {"bert.encoder.layer.2.output.dense.bias": np.ones(8, np.float32)},
            r"unknown weights=\['encoder.layer.2",
        ),
        (
            lambda t: t | {"bert.embeddings.position_embeddings.weight": np.ones((4, 8), np.float32)},
            r"position_embeddings.weight.shape=\(4, 8\) must be \(9, 8\)",
        ),
        (lambda t: drop(t, "word_embeddings.weight"), "tensors embeddings.word_embeddings.weight"),
    ],
)
def test_weights_that_disagree_are_named(texts, network, tmp_path, change, message):
    import safetensors.numpy

    file = network / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)
    with pytest.raises(InputError, match=message):
        extracted(texts, network, tmp_path / "out")


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (2, {}, "activations=2 must be at most 1: a block must be left"),
        (-1, {}, "activations=-1 must be an integer of at least 0"),
        (1, {"tokens": 0}, "tokens=0 must be an integer of at least 1"),
        (1, {"weights": "w.safetensors"}, "must be left out: the file holds token ids"),
    ],
)
def test_numbers_out_of_range_are_refused(texts, network, tmp_path, k, options, message):
    with pytest.raises(InputError, match=message):
        extracted(texts, network, tmp_path / "out", k, **options)


def test_other_texts_networks_and_folders_are_refused(texts, network, tmp_path):
    ids, labels = told_apart(10)
    other = tmp_path / "other.npz"
    np.savez(other, raw=ids + 9, labels=labels)
    with pytest.raises(InputError, match="largest token id=19 must be below 11"):
        extracted(other, network, tmp_path / "out")
    np.savez(other, raw=np.tile(ids, (1, 2)) + 1 - 1, labels=labels)
    with pytest.raises(InputError, match="tokens after padding"):
        extracted(other, network, tmp_path / "out")
    np.savez(other, raw=np.tile(ids[:, :2], (1, 5)), labels=labels)
    with pytest.raises(InputError, match="tokens=10 must be at most 9, the positions of network"):
        extracted(other, network, tmp_path / "out")
    np.savez(other, raw=ids * 0, labels=labels)
    with pytest.raises(InputError, match="texts without a token"):
        extracted(other, network, tmp_path / "out")
    (network / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="model_type='gpt2' must be one of bert"):
        extracted(texts, network, tmp_path / "out")
    with pytest.raises(InputError, match="timm"):
        extract_activations(texts, "timm:vit_tiny_patch16_224", tmp_path / "out", activations=0)
    (tmp_path / "full").mkdir()
    with pytest.raises(InputError, match="there is something that no extraction wrote"):
        extract_activations(texts, f"transformers:{network}", tmp_path / "full", activations=0)


def test_a_damaged_folder_is_named(texts, network, tmp_path):
    extracted(texts, network, tmp_path / "out")
    with pytest.raises(InputError, match="holds another extraction"):
        extracted(texts, network, tmp_path / "out", 0)
    file = tmp_path / "out" / "activations.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"activations.npy: sha256=.* it was changed or damaged"):
        load_features(tmp_path / "out", inputs="activations")
    file.unlink()
    with pytest.raises(InputError, match="there is none"):
        load_features(tmp_path / "out", inputs="activations")
    with pytest.raises(InputError, match="must be a folder that `jaxmia extract --activations K` wrote"):
        load_features(texts, inputs="activations")
