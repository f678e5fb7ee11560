"""[train]: the recipe of every head."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from jaxmia.data.normalization import PROJECTIONS
from jaxmia.studies.settings.base import Positive, Settings
from jaxmia.training.adapters.adapter import ADAPTERS


class TrainSettings(Settings):
    """The recipe of every head."""

    optimizer: Literal["adam", "sgd", "newton"] = "adam"
    """"newton" trains to the minimum of the summed loss + ridge / 2 * ||kernel||^2, in at most `steps` steps, like
    scikit-learn's LogisticRegression with C = 1 / ridge. It uses the full batch and no learning rate."""
    ridge: Annotated[float, Field(ge=0)] = 0.0
    """For newton, above 0: scikit-learn's 1 / C, also for two classes (the penalty is on the one row w_1 - w_0)."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    """For newton: a head has converged at this norm of the objective's gradient, divided by the number of members times
    the root mean square norm of their features (with an appended 1)."""
    schedule: Literal["constant", "cosine"] = "constant"
    steps: Positive = 100
    batch_size: Positive | Literal["full"] = "full"
    """Expected members per step."""
    sampling: Literal["shared", "independent", "poisson"] = "shared"
    """How batches are drawn: "shared" (one order of the candidates for all models), "independent" (every model shuffles
    on its own) or "poisson" (every model draws each of its members at every step). The full batch needs none."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 coefficient: mean loss + weight_decay / 2 * ||kernel||^2, over the rows of all classes, also of two."""
    class_weight: (
        Literal["none", "balanced"]
        | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2, strict=False)]
    ) = "none"
    """Weight of a member's loss: "balanced" (members / (classes x members of the class), from every head's own members,
    as in scikit-learn) or one weight per class. sgd and adam take the weighted mean, as PyTorch does."""
    intercept: bool = True
    """Whether heads have a bias (scikit-learn's fit_intercept)."""
    link: Literal["softmax", "one_vs_rest"] = "softmax"
    """"one_vs_rest", for newton: one two-class head per class, with normalised sigmoids, as in scikit-learn's
    OneVsRestClassifier."""
    matmul_dtype: Annotated[
        Literal["float32", "tensorfloat32", "bfloat16"],
        Field(validation_alias=pydantic.AliasChoices("matmul_dtype", "products")),
    ] = "float32"
    """Dtype of the factors in the two matrix products of a step, which accumulate in float32. "float32" is exact
    float32 on every device; "tensorfloat32" keeps 10 bits on devices that support it (A100 and later). "bfloat16" takes
    about half of the time on processors that support it, and changes scores by less than a tenth of the effect of a
    seed. Files of version 0.1 call this setting `products`, which is still read."""
    normalize: Literal["none", "unit", "standardize", "public", "random"] = "none"
    """Normalisation of candidates and test split: "unit" (every example to norm 1), "standardize" (every dimension
    centred and scaled, then divided by sqrt(dim)), "public" (projected on components of public features, then to norm
    1) or "random" (the same with random directions): see jaxmia.data.normalization.normalized_pool."""
    statistics: Annotated[str, Field(min_length=1)] = "pool"
    """Statistics for "standardize": "pool" (mean and deviation of the cell's candidates) or an .npz with mean and
    scale."""
    public: Annotated[str, Field(min_length=1)] = "none"
    """Of normalize="public": an .npz of features of the same extractor that are public. What is estimated from them
    costs no privacy. None of the private records may be among them."""
    components: Positive = 32
    """Of normalize="public": principal components of the public features to keep; of "random": random directions."""
    network: Literal["linear", "mlp", "conv", "film", "lora", "bias", "blocks"] = "linear"
    """Model to train: "linear" (a linear head from zero); from random parameters "mlp" (dense layers with ReLU) or
    "conv" (a convolution, 7 x 7 pixels at stride 4, then dense layers); or, inside a frozen transformer of which
    data.features has activations, a linear head and an adapter: "film" (scale and shift of the norms), "lora" (products
    of low rank beside attention's weights), "bias" (biases) or "blocks" (all parameters of the last blocks)."""
    blocks: Annotated[int, Field(ge=0)] = 0
    """Of adapters: number of last blocks to adapt; 0 for all above the frozen activations."""
    rank: Positive = 8
    """Of lora: rank of the products."""
    alpha: Annotated[float, Field(ge=0)] = 0.0
    """Of lora: the products are multiplied by alpha / rank; 0 for alpha = rank."""
    targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Of lora: last part of the names of the modules to adapt; by default query and value."""
    widths: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Widths of a network's hidden layers; the first width of a conv net is its number of channels."""
    inputs: Literal["features", "raw"] = "features"
    """Inputs of the model: the extractor's features, or the extractor's raw inputs: pixels, or token ids as a bag of
    words."""

    @property
    def adapts(self) -> bool:
        """Whether models are adapters inside a frozen transformer."""
        return self.network in ADAPTERS

    @property
    def reads(self) -> str:
        """Return what load_features reads for this recipe."""
        return "activations" if self.adapts else self.inputs

    @property
    def plain(self) -> bool:
        """Whether heads are softmax heads with a bias and equal weights, as white-box and analytic attacks require."""
        return self.class_weight == "none" and self.intercept and self.link == "softmax"

    @pydantic.model_validator(mode="after")
    def _networks_have_what_they_need(self) -> TrainSettings:
        what = f"network={self.network!r}"
        if (self.network in ("mlp", "conv")) != bool(self.widths):
            rule = f"none for {what}" if self.widths else f"at least one hidden layer for {what}"
            raise ValueError(f"widths={list(self.widths)} must name {rule}")
        if self.adapts:
            return self._adapters_have_what_they_need()
        for name in ("blocks", "rank", "alpha", "targets"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={getattr(self, name)!r} is for adapters, got {what}")
        if self.network == "conv" and self.inputs != "raw":
            raise ValueError(f"{what} needs inputs='raw' (pixels), got inputs={self.inputs!r}")
        if self.network != "linear" and self.matmul_dtype != "float32":
            raise ValueError(f"matmul_dtype={self.matmul_dtype!r} is for network='linear', got {what}")
        if self.network != "linear" and self.sampling == "poisson":
            raise ValueError(f"sampling='poisson' is for network='linear', got {what}")
        if self.network != "linear" and not self.plain:
            raise ValueError(f"class_weight and intercept are for network='linear', got {what}")
        if self.inputs == "raw" and self.statistics != "pool":
            raise ValueError(f"statistics={self.statistics!r} is for inputs='features', got inputs='raw'")
        return self

    def _adapters_have_what_they_need(self) -> TrainSettings:
        what = f"network={self.network!r}"
        for name in ("rank", "alpha", "targets"):
            if self.network != "lora" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={getattr(self, name)!r} is for network='lora', got {what}")
        if not self.plain:
            raise ValueError(f"class_weight and intercept are for network='linear', got {what}")
        if self.normalize != "none":
            rule = "be 'none': adapters pool as the extractor does"
            raise ValueError(f"normalize={self.normalize!r} must {rule}, got {what}")
        if self.inputs != "features":
            raise ValueError(f"inputs={self.inputs!r} must be left out: {what} reads a folder of activations")
        return self

    @pydantic.model_validator(mode="after")
    def _newton_has_a_ridge_and_no_more(self) -> TrainSettings:
        if self.link == "one_vs_rest" and not isinstance(self.class_weight, str):
            raise ValueError("class_weight must be 'none' or 'balanced' for link='one_vs_rest', got a list")
        if self.optimizer != "newton":
            if self.link != "softmax":
                raise ValueError(f"link={self.link!r} needs optimizer='newton', got {self.optimizer!r}")
            if self.ridge:
                raise ValueError(
                    f"ridge={self.ridge} is for optimizer='newton', got optimizer={self.optimizer!r}"
                )
            return self
        if not self.ridge:
            raise ValueError("ridge=0.0 must be above 0 for optimizer='newton'")
        unused = (
            "schedule",
            "batch_size",
            "sampling",
            "learning_rate",
            "weight_decay",
            "matmul_dtype",
            "network",
        )
        for name in unused:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(f"{name}={value!r} must be {default!r} for optimizer='newton'")
        return self

    @pydantic.model_validator(mode="after")
    def _statistics_are_to_standardize_by(self) -> TrainSettings:
        if self.statistics != "pool" and self.normalize != "standardize":
            raise ValueError(
                f"statistics={self.statistics!r} is for normalize='standardize', got normalize={self.normalize!r}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _public_features_are_to_project_on(self) -> TrainSettings:
        if (self.normalize == "public") != (self.public != "none"):
            raise ValueError(
                "normalize='public' and public='FILE.npz' go together, got"
                f" normalize={self.normalize!r} and public={self.public!r}"
            )
        if self.normalize in PROJECTIONS and self.inputs == "raw":
            raise ValueError(f"normalize={self.normalize!r} is for inputs='features', got inputs='raw'")
        return self

    @pydantic.model_validator(mode="after")
    def _momentum_is_for_sgd(self) -> TrainSettings:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is for optimizer='sgd', got optimizer={self.optimizer!r}"
            )
        return self


def named_as_recorded(train: dict[str, Any]) -> dict[str, Any]:
    """Return the table train, JSON-ready, under the names that identify a training in folders.

    Folders of version 0.1 call matmul_dtype "products". Keeping this name in keys lets them be continued.
    """
    recorded = dict(train)
    recorded["products"] = recorded.pop("matmul_dtype")
    return recorded
