"""Networks for texts and images by transformers: the mean over tokens, or the network's own pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmia._hashes import content_key
from jaxmia._terminal import quiet
from jaxmia._validate import InputError, check
from jaxmia.extract.backbones import Backbone, BackboneSpec, check_modality, network_facts, torch_device
from jaxmia.extract.images import decode
from jaxmia.extract.packages import load_package, one_line
from jaxmia.extract.rows import Modality


def load(spec: BackboneSpec, modality: Modality) -> Backbone:
    """Load a network by name or from a folder; code that comes with it is never run.

    Texts: the mean of the last hidden states over the attention mask. Images: the network's own pooling if its weights
    exist, else the mean over tokens or positions.

    Raises:
        InputError: if it cannot be loaded, or lacks weights that its features would depend on.
    """
    check_modality(spec.kind, modality)
    device = torch_device(spec.device)
    package = load_package("transformers")
    package.utils.logging.disable_progress_bar()
    reader = package.AutoTokenizer if modality == "text" else package.AutoImageProcessor
    try:
        with quiet("transformers", "huggingface_hub", "httpx"):
            network, info = package.AutoModel.from_pretrained(spec.name, output_loading_info=True)
            processor = reader.from_pretrained(spec.name)
    except Exception as error:  # of whatever kind: network, files, shapes
        raise InputError(
            f"{spec.kind}:{spec.name} must be a folder, or a name to download: {one_line(error)}"
        ) from None
    missing = [name for name in info["missing_keys"] if "pooler" not in name]
    check(not missing, f"{spec.name}: missing tensors", sorted(missing)[:3], "be none: they would be random")
    network.eval().float().to(device)
    pools = modality == "image" and not info["missing_keys"]
    if modality == "text":
        preprocessing, features = _texts(network, processor, device)
    else:
        preprocessing, features = _images(network, processor, device, pools)
    facts = network_facts(spec, network, device)
    packages = ("torch", "transformers", *(("tokenizers",) if modality == "text" else ("pillow",)))
    return Backbone(facts, preprocessing, packages, str if modality == "text" else decode, features)


def _texts(network: Any, tokenizer: Any, device: str) -> tuple[dict[str, Any], Any]:
    torch = load_package("torch")
    check(tokenizer.pad_token is not None, "tokenizer: padding token", None, "exist, since texts are padded")
    limits = (tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None))
    limit = int(min(value for value in limits if value is not None))

    def features(items: Sequence[str]) -> Float[np.ndarray, "items dim"]:
        encoded = tokenizer(list(items), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        encoded = encoded.to(device)
        with torch.inference_mode():
            states = network(**encoded).last_hidden_state
        mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
        means: np.ndarray = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return means

    facts = {"max_length": limit, "vocabulary_sha256": content_key(tokenizer.get_vocab())}
    return {**facts, "pooling": "mean over the attention mask"}, features


def _images(network: Any, processor: Any, device: str, pools: bool) -> tuple[dict[str, Any], Any]:
    torch = load_package("torch")

    def features(items: Sequence[Any]) -> Float[np.ndarray, "items dim"]:
        pixels = processor(images=list(items), return_tensors="pt").to(device)
        with torch.inference_mode():
            output = network(**pixels)
        pooled = getattr(output, "pooler_output", None) if pools else None
        if pooled is None:
            states = output.last_hidden_state
            pooled = states.mean(1) if states.ndim == 3 else states.mean((2, 3))
        rows: np.ndarray = pooled.flatten(1).cpu().numpy()
        return rows

    settings = {name: value for name, value in processor.to_dict().items() if _is_plain(value)}
    return {**settings, "pooling": "the network's own" if pools else "mean"}, features


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, dict)) and "path" not in str(value)
