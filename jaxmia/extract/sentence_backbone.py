"""Embeddings of texts by sentence-transformers, equal to those of its `encode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmia._hashes import content_key
from jaxmia._terminal import quiet
from jaxmia._validate import InputError
from jaxmia.extract.backbones import Backbone, BackboneSpec, check_modality, network_facts, torch_device
from jaxmia.extract.packages import load_package, one_line
from jaxmia.extract.rows import Modality


def load(spec: BackboneSpec, modality: Modality) -> Backbone:
    """Load a model by name or from a folder, with its own pooling, normalisation and default prompt.

    Raises:
        InputError: if it cannot be loaded.
    """
    check_modality(spec.kind, modality)
    package, device = load_package("sentence_transformers"), torch_device(spec.device)
    load_package("transformers").utils.logging.disable_progress_bar()
    try:
        with quiet("sentence_transformers", "transformers", "huggingface_hub", "httpx"):
            model = package.SentenceTransformer(spec.name, device=device)
    except Exception as error:  # of whatever kind: network, files, shapes
        raise InputError(
            f"{spec.kind}:{spec.name} must be a folder, or a name to download: {one_line(error)}"
        ) from None

    def features(items: Sequence[Any]) -> Float[np.ndarray, "items dim"]:
        found = model.encode(list(items), batch_size=len(items), show_progress_bar=False)
        return np.asarray(found, np.float32)

    preprocessing = {
        "max_length": model.max_seq_length,
        "modules": [[type(module).__name__, module.get_config_dict()] for module in model],
        "prompt": model.prompts.get(model.default_prompt_name or "", ""),
        "vocabulary_sha256": content_key(model.tokenizer.get_vocab()),
    }
    facts = network_facts(spec, model, device)
    packages = ("torch", "sentence-transformers", "transformers", "tokenizers")
    return Backbone(facts, preprocessing, packages, str, features)
