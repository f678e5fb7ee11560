"""Audits of released adapters: PEFT's LoRA and a state dict of norms, and files that do not fit."""

import json

import jax
import numpy as np
import pytest
from references_adapters import publish, small_bert, told_apart

from jaxmia._validate import InputError
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import load_features
from jaxmia.data.membership import draw_membership
from jaxmia.extract.activations import extract_activations
from jaxmia.training.adapters.adapter import Adapter
from jaxmia.training.ensemble import train_ensemble
from jaxmia.training.scoring import score
from jaxmia.training.settings import Hyperparams, TrainConfig

safetensors = pytest.importorskip("safetensors.numpy", reason="adapters are published as safetensors")
BERT = small_bert()
RECIPES = {
    "film": {"network": "film", "steps": 10, "learning_rate": 0.05},
    "lora": {"network": "lora", "rank": 2, "alpha": 4.0, "steps": 10, "learning_rate": 0.05},
}


def peft_names(changes):
    """The tensors of one LoRA adapter as PEFT saves them."""
    return {
        f"base_model.model.{module}.{part}.weight": value
        for module, parts in changes.items()
        for part, value in parts.items()
    }


def state_names(changes):
    """Norms as a state dict of the whole model has them: the published values and the changes, in place."""
    return {
        f"bert.{module}.{part}": BERT.weights[f"{module}.{part}"] + value
        for module, parts in changes.items()
        for part, value in parts.items()
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """For each kind the records' folder, the file of an adapter trained on half of them, and its log-odds."""
    place = tmp_path_factory.mktemp("audit")
    ids, labels = told_apart(80)
    network = publish(BERT, place / "network", normalize=False)
    given = {}
    member = np.asarray(draw_membership(jax.random.key(5), labels, num_models=1).member[0])
    np.savez(place / "texts.npz", raw=ids.astype(np.int32), labels=labels, member=member)
    extract_activations(place / "texts.npz", f"sentence-transformers:{network}", place / "out", activations=1)
    data = load_features(place / "out", inputs="activations")
    for kind, recipe in RECIPES.items():
        adapter = Adapter(kind, rank=recipe.get("rank", 8), alpha=recipe.get("alpha", 0.0))
        masks = draw_membership(jax.random.key(5), data.labels, num_models=1)
        config = TrainConfig(steps=10, network=adapter)
        ensemble = train_ensemble(jax.random.key(9), data, masks, Hyperparams(0.05), config)
        own = jax.tree.map(lambda leaf: np.asarray(leaf[0]), ensemble.params["params"])
        folder = place / kind
        folder.mkdir()
        names = peft_names if kind == "lora" else state_names
        tensors = names(own["adapter"]) | {"classifier.weight": own["kernel"], "classifier.bias": own["bias"]}
        safetensors.save_file(
            {name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()},
            folder / "adapter_model.safetensors",
        )
        given[kind] = folder / "adapter_model.safetensors", np.asarray(score(ensemble, data).log_odds[0])
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "hub/network"}
    (place / "lora" / "adapter_config.json").write_text(json.dumps(facts))
    return place / "out", given


def audit(released, kind, *, file=None, train=(), **more):
    folder, given = released
    return AuditConfig.model_validate(
        {
            "data": {"features": str(folder)},
            "head": {"file": str(file or given[kind][0])},
            "train": RECIPES[kind] | dict(train),
            "shadows": {"models": 16},
            "fpr": [0.1],
            "attack": [{"name": "lira"}, {"name": "threshold"}],
            **more,
        },
        strict=False,
    )


@pytest.mark.parametrize("kind", [pytest.param("film", marks=pytest.mark.thorough), "lora"])
def test_a_released_adapter_is_audited_with_its_own_scores(released, tmp_path, kind):
    result = run_audit(audit(released, kind), tmp_path / "audit")
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    inside = {"film": 4 * 8, "lora": 2 * 2 * (2 * 8)}[kind]  # two norms; q and v, of rank 2
    assert content["head"]["parameters"] == inside + 2 * 9
    assert content["records"]["dim"] == 8
    assert f"Read: {kind} in 2 modules of network." in content["head"]["read"]
    held = result.records.sort_values("id", key=lambda ids: ids.astype(int))
    np.testing.assert_allclose(held["log_odds"], released[1][kind][1], atol=1e-3)
    assert result.match.mismatch < 1  # shadows with its recipe resemble it
    again = run_audit(audit(released, kind), tmp_path / "audit")
    assert again.attack.results.equals(result.attack.results)


def changed(released, tmp_path, kind, change):
    file = tmp_path / "adapter_model.safetensors"
    safetensors.save_file(change(safetensors.load_file(released[1][kind][0])), file)
    return file


Q = "base_model.model.encoder.layer.1.attention.self.query"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "lora",
            lambda t: {k: v for k, v in t.items() if "query.lora_B" not in k},
            "missing tensors=.*query.lora_B",
        ),
        (
            "lora",
            lambda t: t | {f"{Q}.lora_A.weight": np.ones((3, 8), np.float32)},
            r"shape=\(3, 8\) must be \(2, 8\)",
        ),
        (
            "lora",
            lambda t: t | {f"{Q.replace('.1.', '.7.')}.lora_A.weight": np.ones((2, 8), np.float32)},
            "modules that the activations' network lacks=.*layer.7",
        ),
        (
            "lora",
            lambda t: t | {f"{Q.replace('query', 'key')}.lora_A.weight": np.ones((2, 8), np.float32)},
            "is of an adapter that .train. does not train",
        ),
        (
            "film",
            lambda t: t | {"bert.encoder.layer.1.output.dense.bias": np.ones(8, np.float32)},
            "largest difference=.* must be the published one",
        ),
        (
            "film",
            lambda t: {k: v for k, v in t.items() if "classifier" not in k},
            "must hold a tensor of floats named",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(released, tmp_path, kind, change, message):
    with pytest.raises(InputError, match=message):
        run_audit(audit(released, kind, file=changed(released, tmp_path, kind, change)), tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("kind", "train", "message"),
    [
        ("lora", {"rank": 3}, "train.rank=3 must be 2, as adapter_config.json says"),
        ("lora", {"alpha": 0.0}, "train.alpha=2 must be 4, as adapter_config.json says"),
        (
            "lora",
            {"network": "film", "rank": 8, "alpha": 0.0},
            "peft_type='LORA' must be 'LORA', with network='lora'",
        ),
        ("film", {"blocks": 3}, "blocks=3 must be at most 1"),
    ],
)
def test_recipes_of_another_adapter_are_refused(released, tmp_path, kind, train, message):
    with pytest.raises(InputError, match=message):
        run_audit(audit(released, kind, train=train), tmp_path / "audit")


def test_another_base_is_told_and_white_boxes_are_refused(released, tmp_path):
    file = changed(released, tmp_path, "lora", dict)
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "hub/other"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(facts))
    result = run_audit(audit(released, "lora", file=file), tmp_path / "audit")
    assert "The adapter says that its base is other, the activations are of network." in result.notes
    with pytest.raises(InputError, match="network='lora' must be 'linear' for attack 'whitebox'"):
        run_audit(audit(released, "lora", attack=[{"name": "whitebox"}]), tmp_path / "other")
    with pytest.raises(ValueError, match=r"match=true fits the recipe, so .*network"):
        audit(released, "lora", train={"match": True})
