"""Real records, and a head trained on half of them by other code, in files for an audit."""

import numpy as np
import safetensors.numpy

from jaxmia import demo_features
from jaxmia.audit.settings import AuditConfig

CLASSES, EACH, STRENGTH = 3, 80, 0.3


def real_records():
    """240 real records of three classes, half of them members."""
    data, rng = demo_features(), np.random.default_rng(0)
    rows = np.concatenate([np.flatnonzero(data.labels == c)[:EACH] for c in range(CLASSES)])
    member = np.zeros(len(rows), bool)
    member[rng.permutation(len(rows))[: len(rows) // 2]] = True
    names = np.array(data.class_names[:CLASSES])
    return {
        "features": data.features[rows],
        "labels": data.labels[rows],
        "class_names": names,
        "member": member,
    }


def ridge_head(features, labels, *, strength, steps=3000):
    """Weights and bias of the minimiser of summed loss + strength / 2 ||weight||², by plain gradient descent."""
    x, y = features.astype(np.float64), np.eye(CLASSES)[labels]
    weight, bias = np.zeros((CLASSES, x.shape[1])), np.zeros(CLASSES)
    for _ in range(steps):
        z = x @ weight.T + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        error = p / p.sum(axis=1, keepdims=True) - y
        weight -= (1.5 / len(x)) * (error.T @ x + strength * weight)
        bias -= (1.5 / len(x)) * error.sum(axis=0)
    return weight, bias


def head_of_members(records):
    """The ridge head of the members."""
    member = records["member"]
    return ridge_head(records["features"][member], records["labels"][member], strength=STRENGTH)


def audit_settings(place, head="head.safetensors", **tables):
    """Settings of a LiRA audit of the head in a folder; `tables` replace tables of the audit file."""
    base = {
        "fpr": [0.1],
        "attack": ["lira"],
        "data": {"features": str(place / "features.npz")},
        "head": {"file": str(place / head)},
    }
    return AuditConfig.model_validate(base | tables)


def lay_out(folder, records, head, *, more=""):
    """Write features.npz, head.safetensors and audit.toml into a folder; `more` is TOML below [shadows]."""
    np.savez(folder / "features.npz", **records)
    weight, bias = (part.astype(np.float32) for part in head)
    safetensors.numpy.save_file({"fc.weight": weight, "fc.bias": bias}, folder / "head.safetensors")
    (folder / "audit.toml").write_text(
        'fpr = [0.1]\nattack = ["lira", "threshold"]\n[data]\nfeatures = "features.npz"\n'
        '[head]\nfile = "head.safetensors"\n'
        f'[train]\nsteps = 300\nschedule = "cosine"\nweight_decay = {STRENGTH / 120}\n[shadows]\nmodels = 48\n{more}'
    )
