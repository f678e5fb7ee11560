"""DP-SGD for one model: Poisson sampling, gradient clipping per example or per person, Gaussian noise.

Private training uses its data only through this file. At the parameters theta_t, step t computes (Abadi et al. 2016,
arXiv 1607.00133, Algorithm 1; Ponomareva et al. 2023, arXiv 2303.00654)

    G_t = [ sum_{i in S_t} g_i min(1, c / ||g_i||)  +  N(0, (sigma c)^2 I) ] / B,

g_i: gradient of the loss of example i alone; c: clipping_norm, in the units of a gradient; sigma: noise_multiplier;
S_t: every member independently with probability q = sampling_rate (all members if q = 1); B = q x the *expected* number
of members. Everything computed from G_t and theta_t alone (optimiser, learning rate, weight decay) is post-processing.

Where the unit is the person, i runs over persons: g_i is the sum of the gradients of all records of person i, S_t
samples persons with all their records, and adding or removing one means a person.

What an accountant may rely on:
- Adding or removing one example changes the sum by at most c, replacing one by at most 2c, in L2 norm. Noise is
  relative to c, so under REPLACE_ONE adjacency the accountant must double the sensitivity.
- B is a public constant. Sums are never divided by the realised number of members or of sampled examples, which is
  private.
- A gradient that is not finite counts as zero, so that no single example can turn the sum into NaN.
- Sampling and noise are functions of (the model's key, step, purpose): no two models or steps share them, and neither
  chunking nor padding of the ensemble changes them.

What an accountant may not rely on: JAX's generators are not cryptographically secure, the noise is float32 (no draw
beyond 5.5 standard deviations), and q is exact only to within 2^-23. This code simulates private training in order to
measure it. Do not use it to protect a model that is released.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from jaxmia.training.heads import SplitHead, gradient_sum
from jaxmia.training.persons import PersonRows, person_norms

Gradient = Any  # a tree with the parameters' structure


def step_keys(key: jax.Array, step: int | Array) -> tuple[jax.Array, jax.Array]:
    """Return the keys of one step's Poisson sampling and noise.

    Args:
        key: the model's own key.
        step: index of the step, from 0.
    """
    sampling_key, noise_key = jax.random.split(jax.random.fold_in(key, step))
    return sampling_key, noise_key


def poisson_sample(
    key: jax.Array,
    member: Bool[Array, "examples"],
    sampling_rate: float | Array,
    persons: PersonRows | None = None,
) -> Bool[Array, "examples"]:
    """Return a sample with each member independently with probability sampling_rate; all members at a rate of 1.

    Args:
        key: key of this model and step, used for nothing else.
        member: True for the examples that the model trains on.
        sampling_rate: q.
        persons: persons of the examples, to sample persons with all of their records; None to sample examples.
    """
    drawn = jax.random.bernoulli(key, sampling_rate, member.shape)
    return member & (drawn if persons is None else drawn[persons.whose])


def clipped_gradient_sum(
    errors: Float[Array, "rest examples"],
    features: Float[Array, "examples dim"],
    sampled: Bool[Array, "examples"],
    *,
    clipping_norm: float | Array,
    precision: jax.lax.Precision | None = None,
    persons: PersonRows | None = None,
    intercept: bool = True,
) -> SplitHead:
    """Return the sum of the sampled examples' or persons' clipped cross-entropy gradients, for a linear head.

    The gradient of example i is (p_i - y_i) [x_i, 1]^T, with norm ||p_i - y_i|| sqrt(||x_i||^2 + 1); without a bias the
    1 is missing in both. So clipping is one factor per example and the sum is one matrix product (Goodfellow 2015,
    arXiv 1510.01799); single gradients are never formed. Where the unit is the person, all records of a person
    have the factor of the person's summed gradient (jaxmia.training.persons).

    Args:
        errors: p_i - y_i of all classes but the last, whose error is minus their sum (heads.logit_errors).
        features: features of all examples.
        sampled: True for the examples of this step; for a person, all records or none.
        clipping_norm: c, in the units of a gradient.
        precision: precision of the product, as in jaxmia.training.heads.product.
        persons: persons of the examples, to clip by person; None to clip by example.
        intercept: whether the head has a bias. Without one, what is returned for it must be dropped, unreleased.
    """
    share = _rounding_share(errors, features, precision, inputs=persons is not None)
    if persons is None:
        norms, room = _gradient_norms(errors, features, intercept), 1.0 - share
    else:
        norms, room = person_norms(errors, sampled, persons, share=share), 1.0
    scale = jnp.minimum(1.0, room * clipping_norm / norms)
    weighted = errors * jnp.where(sampled, scale, 0.0)
    return gradient_sum(jnp.where(jnp.isnan(weighted), 0.0, weighted), features, precision)


def _rounding_share(
    errors: Float[Array, "rest examples"],
    features: Float[Array, "examples dim"],
    precision: jax.lax.Precision | None,
    *,
    inputs: bool,
) -> float:
    """Return the share of its norm by which rounded products may enlarge a gradient; the clip leaves room for it.

    Args:
        errors: as in clipped_gradient_sum.
        features: as in clipped_gradient_sum.
        precision: as in clipped_gradient_sum.
        inputs: True if norms are computed from features before they are rounded, as for persons.
    """
    if features.dtype == jnp.bfloat16:
        # Rounding with relative error u enlarges a gradient by up to u times its norm. It enlarges the last class's
        # part, a sum of C - 1 rounded terms, by up to u sqrt(C - 1) times the norm. The clipping norm is reduced by
        # both.
        share = float(jnp.finfo(features.dtype).eps) / 2
        return ((1 + share) ** 2 - 1 if inputs else share) * (1 + math.sqrt(errors.shape[0]))
    if precision == jax.lax.Precision.HIGH:
        # TensorFloat-32 keeps 10 bits of weights and of features and may truncate the rest: an error of 2^-10 each.
        share = (1 + 2.0**-10) ** 2 - 1
        return share * (1 + math.sqrt(errors.shape[0]))
    return 0.0


def clipped_squares(
    errors: Float[Array, "rest examples"],
    features: Float[Array, "examples dim"],
    member: Bool[Array, "examples"],
    *,
    clipping_norm: float | Array,
    persons: PersonRows | None = None,
    intercept: bool = True,
) -> Float[Array, "examples"]:
    """Return the squared norm of every member's clipped gradient, in squared units of a gradient; 0 for the others.

    Their sums over the steps of a full-batch run give each record's mu: jaxmia.privacy.accounting.individual_mu.

    Args:
        errors: as in clipped_gradient_sum.
        features: features of all examples.
        member: which examples the model trains on.
        clipping_norm: c.
        persons: as in clipped_gradient_sum; every record then has its person's square.
        intercept: as in clipped_gradient_sum.
    """
    by_person = None if persons is None else person_norms(errors, member, persons)
    norms = _gradient_norms(errors, features, intercept) if by_person is None else by_person
    counted = member & ~jnp.isnan(norms)  # non-finite gradients count as zero, as in the sum
    return jnp.where(counted, jnp.minimum(norms, clipping_norm) ** 2, 0.0)


def _gradient_norms(
    errors: Float[Array, "rest examples"], features: Float[Array, "examples dim"], intercept: bool
) -> Float[Array, "examples"]:
    inputs = features.astype(errors.dtype)
    squares = jnp.sum(errors**2, axis=0) + jnp.sum(errors, axis=0) ** 2
    return jnp.sqrt(squares * (float(intercept) + jnp.sum(inputs**2, axis=1)))


def clipped_tree(gradient: Gradient, counted: Bool[Array, ""], *, clipping_norm: float | Array) -> Gradient:
    """Return one example's gradient, clipped jointly over all leaves; zeros if it does not count or is not finite.

    Args:
        gradient: gradient of the loss of one example alone.
        counted: whether the example is in this step's sample.
        clipping_norm: c, in the units of a gradient.
    """
    norm = optax.tree.norm(gradient)
    scale = jnp.minimum(1.0, clipping_norm / jnp.where(norm > 0, norm, 1.0))
    # The norm is finite only if all leaves are. One that overflows counts as zero too.
    kept = counted & jnp.isfinite(norm)
    return jax.tree.map(lambda leaf: jnp.where(kept, scale * leaf, 0.0), gradient)


def add_noise(
    key: jax.Array,
    gradient_sum: Gradient,
    *,
    clipping_norm: float | Array,
    noise_multiplier: float | Array,
    expected_batch: float | Array,
) -> Gradient:
    """Return G_t: the sum plus N(0, (noise_multiplier clipping_norm)^2) noise, divided by the expected batch size.

    Noise comes from jax.random.normal, one call per leaf. With threefry keys a model's draws do not depend on how many
    models are drawn at once; with "rbg" keys they do, and on a CPU "rbg" is not faster.

    Args:
        key: random key of this model and step, used for nothing else.
        gradient_sum: sum of clipped gradients.
        clipping_norm: c, in the units of a gradient.
        noise_multiplier: sigma.
        expected_batch: B, a public constant.
    """
    deviation = noise_multiplier * clipping_norm
    noise = optax.tree.random_like(key, gradient_sum)
    return jax.tree.map(
        lambda total, normal: (total + deviation * normal) / expected_batch, gradient_sum, noise
    )
