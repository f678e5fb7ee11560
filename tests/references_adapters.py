"""Slow second derivations of transformers with adapters, in float64 with loops over examples and heads."""

import json
import math

import numpy as np

from jaxmia.data.backbone import Backbone, BertShape, VitShape

ERF = np.vectorize(math.erf)


def small_bert(seed=0, *, layers=2, dim=8, wide=12, words=11, places=9, heads=2, **shape):
    """A BERT of random weights, whole."""
    rng = np.random.default_rng(seed)
    names = {"embeddings.word_embeddings": (words, dim), "embeddings.position_embeddings": (places, dim)}
    own = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    norms = ["attention.output.LayerNorm", "output.LayerNorm"]
    if shape.get("style") == "mpnet":
        own = [f"attention.attn.{part}" for part in "qkvo"]
        norms = ["attention.LayerNorm", "output.LayerNorm"]
        names["encoder.relative_attention_bias"] = (32, heads)
    else:
        names["embeddings.token_type_embeddings"] = (2, dim)
    weights = {f"{name}.weight": rng.normal(size=size, scale=0.5) for name, size in names.items()}
    modules = ["embeddings.LayerNorm"]
    for block in range(layers):
        base = f"encoder.layer.{block}."
        modules += [base + name for name in norms]
        sizes = dict.fromkeys(own, (dim, dim)) | {
            "intermediate.dense": (wide, dim),
            "output.dense": (dim, wide),
        }
        for name, size in sizes.items():
            weights[f"{base}{name}.weight"] = rng.normal(size=size, scale=0.4)
            weights[f"{base}{name}.bias"] = rng.normal(size=size[0], scale=0.2)
    for name in modules:
        weights[f"{name}.weight"] = 1 + rng.normal(size=dim, scale=0.2)
        weights[f"{name}.bias"] = rng.normal(size=dim, scale=0.2)
    weights = {name: each.astype(np.float32) for name, each in weights.items()}
    return Backbone(BertShape(layers=layers, heads=heads, eps=1e-6, **shape), weights, 0, "small")


def small_vit(
    seed=0, *, layers=2, dim=8, wide=12, heads=2, registers=0, norm_pre=False, scales=False, **shape
):
    """A vision transformer of random weights on images of 6 x 6 pixels in 3 colours and patches of 3 x 3."""
    rng = np.random.default_rng(seed)
    shape = VitShape(layers=layers, heads=heads, eps=1e-6, patch=3, size=6, **shape)
    weights = {"patch_embed.proj.weight": rng.normal(size=(dim, 3, 3, 3), scale=0.3)}
    weights["patch_embed.proj.bias"] = rng.normal(size=dim)
    weights["cls_token"] = rng.normal(size=(1, 1, dim))
    if registers:
        weights["reg_token"] = rng.normal(size=(1, registers, dim))
    weights["pos_embed"] = rng.normal(size=(1, 4 + (0 if shape.bare_prefix else 1 + registers), dim))
    norms = ["fc_norm" if shape.pooling == "mean" else "norm", *(["norm_pre"] if norm_pre else [])]
    for block in range(layers):
        base = f"blocks.{block}."
        norms += [f"{base}norm1", f"{base}norm2"]
        sizes = {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (wide, dim),
            "mlp.fc2": (dim, wide),
        }
        for name, size in sizes.items():
            weights[f"{base}{name}.weight"] = rng.normal(size=size, scale=0.4)
            weights[f"{base}{name}.bias"] = rng.normal(size=size[0], scale=0.2)
        for name in ("ls1", "ls2") if scales else ():
            weights[f"{base}{name}.gamma"] = rng.normal(size=dim)
    for name in norms:
        weights[f"{name}.weight"] = 1 + rng.normal(size=dim, scale=0.2)
        weights[f"{name}.bias"] = rng.normal(size=dim, scale=0.2)
    return Backbone(shape, {name: each.astype(np.float32) for name, each in weights.items()}, 0, "small")


def changed(backbone, changes, scale=1.0):
    """The weights with an adapter's changes added: LoRA's product too, as merging it does."""
    weights = {name: each.astype(np.float64) for name, each in backbone.weights.items()}
    for module, parts in changes.items():
        for part, value in parts.items():
            if part == "lora_A":
                weights[f"{module}.weight"] = weights[f"{module}.weight"] + scale * np.asarray(
                    parts["lora_B"], np.float64
                ) @ np.asarray(value, np.float64)
            elif part != "lora_B":
                weights[f"{module}.{part}"] = weights[f"{module}.{part}"] + np.asarray(value, np.float64)
    return weights


def dense(weights, name, inputs):
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights, name, inputs, eps):
    rows = []
    for row in inputs:
        rows.append((row - row.mean()) / math.sqrt(row.var() + eps))
    return np.array(rows) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(values):
    return values * 0.5 * (1 + ERF(values / math.sqrt(2)))


def attention(query, key, value, heads, bias=None):
    """One example's tokens, without padding."""
    size, outputs = query.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = query[:, part] @ key[:, part].T / math.sqrt(size)
        logits = logits if bias is None else logits + bias[head]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        outputs.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, part])
    return np.concatenate(outputs, axis=1)


def slow_bert(backbone, ids, changes=None, scale=1.0):
    """Features of texts, one at a time and without their padding."""
    shape, weights, rows = backbone.shape, changed(backbone, changes or {}, scale), []
    for text in ids:
        text = text[text != shape.pad]
        places = np.arange(len(text)) + shape.offset
        hidden = weights["embeddings.word_embeddings.weight"][text]
        hidden = hidden + weights["embeddings.position_embeddings.weight"][places]
        bias = None
        if shape.style == "mpnet":
            own = [f"attention.attn.{part}" for part in "qkvo"] + ["attention.LayerNorm"]
            bias = np.zeros((shape.heads, len(text), len(text)))
            for query in range(len(text)):
                for key in range(len(text)):  # below 8 apart, every distance and direction has a bucket
                    bucket = query - key if query >= key else 16 + key - query
                    bias[:, query, key] = weights["encoder.relative_attention_bias.weight"][bucket]
        else:
            own = [f"attention.self.{part}" for part in ("query", "key", "value")]
            own += ["attention.output.dense", "attention.output.LayerNorm"]
            hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
        hidden = norm(weights, "embeddings.LayerNorm", hidden, shape.eps)
        for block in range(shape.layers):
            base = f"encoder.layer.{block}."
            parts = [dense(weights, base + name, hidden) for name in own[:3]]
            mixed = dense(weights, base + own[3], attention(*parts, shape.heads, bias))
            hidden = norm(weights, base + own[4], hidden + mixed, shape.eps)
            wide = gelu(dense(weights, f"{base}intermediate.dense", hidden))
            hidden = hidden + dense(weights, f"{base}output.dense", wide)
            hidden = norm(weights, f"{base}output.LayerNorm", hidden, shape.eps)
        features = hidden.mean(axis=0) if shape.pooling == "mean" else hidden[0]
        rows.append(features / np.linalg.norm(features) if shape.unit else features)
    return np.array(rows)


def slow_vit(backbone, pixels, changes=None, scale=1.0):
    """Features of images, one at a time, patch by patch."""
    shape, weights, rows = backbone.shape, changed(backbone, changes or {}, scale), []
    side, kernel = shape.size // shape.patch, weights["patch_embed.proj.weight"]
    for image in pixels.astype(np.float64):
        patches = []
        for row in range(side):
            for column in range(side):
                cut = image[row * 3 : row * 3 + 3, column * 3 : column * 3 + 3]
                products = [np.sum(cut * filter_.transpose(1, 2, 0)) for filter_ in kernel]
                patches.append(np.array(products) + weights["patch_embed.proj.bias"])
        prefix = [
            token for name in ("cls_token", "reg_token") if name in weights for token in weights[name][0]
        ]
        hidden = np.array([*prefix, *patches])
        hidden[len(prefix) if shape.bare_prefix else 0 :] += weights["pos_embed"][0]
        if "norm_pre.weight" in weights:
            hidden = norm(weights, "norm_pre", hidden, shape.eps)
        for block in range(shape.layers):
            base = f"blocks.{block}."
            gammas = [weights.get(f"{base}{name}.gamma", 1.0) for name in ("ls1", "ls2")]
            fused = dense(weights, f"{base}attn.qkv", norm(weights, f"{base}norm1", hidden, shape.eps))
            mixed = attention(*np.split(fused, 3, axis=1), shape.heads)
            hidden = hidden + gammas[0] * dense(weights, f"{base}attn.proj", mixed)
            wide = gelu(dense(weights, f"{base}mlp.fc1", norm(weights, f"{base}norm2", hidden, shape.eps)))
            hidden = hidden + gammas[1] * dense(weights, f"{base}mlp.fc2", wide)
        if shape.pooling == "mean":
            rows.append(norm(weights, "fc_norm", hidden[len(prefix) :].mean(axis=0)[None], shape.eps)[0])
        else:
            rows.append(norm(weights, "norm", hidden, shape.eps)[0])
    return np.array(rows)


def publish(backbone, folder, *, prefix="", normalize=True, **config):
    """Save a small BERT as sentence-transformers does: config.json, model.safetensors and modules.json."""
    import safetensors.numpy

    shape, words = backbone.shape, backbone.weights["embeddings.word_embeddings.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "model_type": "bert",
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_size": words.shape[1],
        "intermediate_size": backbone.hidden,
        "vocab_size": len(words),
        "max_position_embeddings": len(backbone.weights["embeddings.position_embeddings.weight"]),
        "type_vocab_size": 2,
        "layer_norm_eps": shape.eps,
        "hidden_act": "gelu",
        "pad_token_id": shape.pad,
    }
    (folder / "config.json").write_text(json.dumps(facts | config))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": f"{place}_{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "word_embedding_dimension": 8}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    tensors = {prefix + name: each for name, each in backbone.weights.items()}
    safetensors.numpy.save_file(
        tensors | {prefix + "pooler.dense.bias": np.zeros(3, np.float32)}, folder / "model.safetensors"
    )
    return folder


def told_apart(count, seed=0, classes=2):
    """Token ids of texts of two classes, each with words of its own among others; and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % classes
    ids = rng.integers(2 + classes, 11, size=(count, 6))
    ids[:, :2] = (2 + labels)[:, None]
    ids[:, 4:] *= (np.arange(count) % 3 > 0)[:, None]
    return ids, labels
