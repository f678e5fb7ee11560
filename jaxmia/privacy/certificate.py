"""Certificates of released private heads: the guarantee in JSON, and functions that compute it again.

A certificate covers T releases of a sum on a lattice, each with discrete Gaussian noise (Canonne, Kamath and Steinke
2020, arXiv 2004.00010). One release whose sum moves by at most Delta is rho-zCDP with

    rho = Delta² / (2 s²),    s: scale of the noise, Delta in the same units,

also for integers and many coordinates (Theorem 14 there), T of them are T rho-zCDP, and rho-zCDP implies, for every
alpha > 1, (epsilon, delta)-DP with (Proposition 12 there)

    epsilon = alpha rho + log(1 / (alpha delta)) / (alpha - 1) + log(1 - 1 / alpha).
"""

from __future__ import annotations

import math
import os
import pathlib
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pydantic
import scipy.optimize
from pydantic import Field

from jaxmia._atomic import read_json
from jaxmia._hashes import file_hash
from jaxmia._validate import InputError, check
from jaxmia.privacy.accounting import MIN_DELTA, SENSITIVITY, dp_epsilon

SUFFIX = ".certificate.json"
LATTICE_BITS = 30
"""Sums are of whole multiples of 2^-30, which int64 holds exactly for 2^30 records."""
_ROUNDING = 1e-6  # relative; of accountants among each other
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Certificate(pydantic.BaseModel):
    """The guarantee of a released head. No field depends on a record, on the noise or on a seed."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["jaxmia certificate of a private head, 1"] = "jaxmia certificate of a private head, 1"
    head_file: str
    head_sha256: _Hash
    mechanism: Literal["discrete Gaussian noise on sums of clipped gradients"] = (
        "discrete Gaussian noise on sums of clipped gradients"
    )
    recipe: Literal["class_means", "dp_sgd"]
    """"class_means": one release; "dp_sgd": steps of full-batch gradient descent, each from one release."""
    adjacency: Literal["add_or_remove_one", "replace_one"]
    unit: Literal["record", "person"]
    epsilon: _Positive
    """Achieved epsilon, by OpenDP's map from noise to epsilon; at most the target."""
    delta: Annotated[float, Field(ge=MIN_DELTA, lt=1)]
    rho: _Positive
    """rho of zero-concentrated DP, of all steps together."""
    noise_multiplier: _Positive
    """Scale of the noise over the clipping norm."""
    clipping_norm: _Positive
    lattice_bits: Annotated[int, Field(ge=8, le=40)]
    """Contributions are truncated to whole multiples of 2^-lattice_bits."""
    steps: Annotated[int, Field(ge=1)]
    optimizer: Literal["sgd", "adam"]
    schedule: Literal["constant", "cosine"]
    learning_rate: _Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    intercept: bool
    classes: Annotated[int, Field(ge=2)]
    dim: Annotated[int, Field(ge=1)]
    expected_members: Annotated[int, Field(ge=1)]
    """Divisor of the sums: S x C as declared, not a count of the members."""
    normalize: Literal["none", "unit", "public", "random", "standardize"]
    components: int | None
    public_sha256: _Hash | None
    """SHA-256 of the file of public features, or of statistics, that features were normalised by."""
    assumed_public: tuple[str, ...] = Field(strict=False)
    versions: dict[str, str]

    @property
    def guarantee(self) -> str:
        """Return the guarantee in words."""
        adjacent = self.adjacency.replace("_", " ")
        return f"(ε = {self.epsilon:.4g}, δ = {self.delta:g})-differential privacy of each {self.unit} ({adjacent})"


class Finding(NamedTuple):
    """One check of a certificate.

    Attributes:
        what: what was checked.
        stated: what the certificate says.
        found: what was computed; "not run" with the reason.
        holds: whether it holds; None if it could not be checked.
    """

    what: str
    stated: str
    found: str
    holds: bool | None


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Return the epsilon that rho-zCDP implies at a delta: the formula above, minimised over alpha; at least 0.

    Raises:
        InputError: unless rho is positive and finite, and delta in (0, 1).
    """
    check(0 < rho < math.inf, "rho", rho, "be a positive number")
    check(0 < delta < 1, "delta", delta, "lie in (0, 1)")

    def epsilon(log_excess: float) -> float:
        alpha = 1 + math.exp(log_excess)
        return alpha * rho + (-math.log(alpha) - math.log(delta)) / (alpha - 1) + math.log1p(-1 / alpha)

    # The minimum lies near alpha - 1 = sqrt(log(1/delta) / rho), and the formula has one minimum.
    start = 0.5 * math.log(-math.log(delta) / rho)
    found = scipy.optimize.minimize_scalar(epsilon, bounds=(start - 8, start + 8), method="bounded")
    return max(0.0, float(found.fun))


def zcdp_noise_multiplier(*, epsilon: float, delta: float, steps: int, adjacency: str) -> float:
    """Return the smallest noise multiplier, to 1e-9 and rounded up, whose zcdp_epsilon does not exceed a target.

    Raises:
        InputError: unless epsilon is positive and finite.
    """
    check(0 < epsilon < math.inf, "epsilon", epsilon, "be a positive number")

    def excess(log_rho: float) -> float:
        return zcdp_epsilon(math.exp(log_rho), delta) - epsilon

    log_rho = scipy.optimize.brentq(excess, -40.0, math.log(epsilon) + 1, xtol=1e-10)
    return rho_noise(math.exp(log_rho), steps, adjacency) * (1 + 1e-9)


def rho_noise(rho: float, steps: int, adjacency: str) -> float:
    """Return the noise multiplier of T steps that are rho-zCDP together; its own inverse: rho of a noise multiplier."""
    return SENSITIVITY[adjacency] * math.sqrt(steps / (2 * rho))


def rho_of(noise_multiplier: float, steps: int, adjacency: str) -> float:
    """Return rho of T steps together."""
    return steps * SENSITIVITY[adjacency] ** 2 / (2 * noise_multiplier**2)


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Args:
        path: the JSON file that `jaxmia release` wrote.

    Raises:
        InputError: for a missing or damaged file, or one that is not a certificate.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"certificate={str(path)!r} must be an existing file; `jaxmia release` writes one.")
    content = read_json(path)
    try:
        return Certificate.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"certificate={str(path)!r} must be a certificate of jaxmia: {place}: {first['msg']}."
        ) from None


def verify_certificate(
    path: str | os.PathLike[str], *, public: str | os.PathLike[str] | None = None
) -> list[Finding]:
    """Check a certificate against the files, and compute its guarantee again from noise, steps and adjacency.

    Args:
        path: the certificate; the head's file is in the same folder.
        public: the file of public features, to compare with the certificate; None skips this check.

    Returns:
        One Finding for each check.

    Raises:
        InputError: as load_certificate.
    """
    path, told = pathlib.Path(path), load_certificate(path)
    head = path.parent / told.head_file
    found = [_same_file("head's file", head, told.head_sha256)]
    if told.public_sha256 is not None:
        name = "file of public features"
        found.append(
            Finding(name, told.public_sha256[:12], "not run: give it by --public", None)
            if public is None
            else _same_file(name, pathlib.Path(public), told.public_sha256)
        )
    rho = rho_of(told.noise_multiplier, told.steps, told.adjacency)
    found.append(_at_most("rho of all steps", rho, told.rho))
    found.append(_at_most("epsilon, by the formula", zcdp_epsilon(told.rho, told.delta), told.epsilon))
    gaussian = dp_epsilon(
        noise_multiplier=told.noise_multiplier,
        sampling_rate=1.0,
        steps=told.steps,
        delta=told.delta,
        adjacency=told.adjacency,
    )
    found.append(_at_most("epsilon of continuous noise, by the PLD accountant", gaussian, told.epsilon))
    found.append(_by_opendp(told))
    return found


def _same_file(what: str, path: pathlib.Path, expected: str) -> Finding:
    if not path.is_file():
        return Finding(what, expected[:12], f"{path.name} is not there", False)
    own = file_hash(path)
    return Finding(what, expected[:12], own[:12], own == expected)


def _at_most(what: str, found: float, stated: float) -> Finding:
    return Finding(what, f"{stated:.6g}", f"{found:.6g}", found <= stated * (1 + _ROUNDING))


def _by_opendp(told: Certificate) -> Finding:
    """Check epsilon by OpenDP's map, if it is installed."""
    what = "epsilon, by OpenDP's map"
    try:
        found = opendp_epsilon(
            noise_multiplier=told.noise_multiplier,
            clipping_norm=told.clipping_norm,
            lattice_bits=told.lattice_bits,
            steps=told.steps,
            delta=told.delta,
            adjacency=told.adjacency,
        )
    except ImportError:
        return Finding(what, f"{told.epsilon:.6g}", "not run: pip install jaxmia[release]", None)
    return _at_most(what, found, told.epsilon)


def opendp_epsilon(
    *,
    noise_multiplier: float,
    clipping_norm: float,
    lattice_bits: int,
    steps: int,
    delta: float,
    adjacency: str,
) -> float:
    """Return epsilon of T releases by OpenDP: its map of one release to rho, and of T rho to (epsilon, delta).

    Raises:
        ImportError: without OpenDP.
    """
    import opendp.prelude as dp

    dp.enable_features("contrib")
    unit = math.ldexp(1.0, lattice_bits)
    domain, metric = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    # T releases with noise s are as private as one with s / sqrt(T): rho adds up. Rounded down, towards less privacy.
    scale = noise_multiplier * clipping_norm * unit / math.sqrt(steps) * (1 - 1e-12)
    one = dp.m.make_gaussian(domain, metric, scale=scale)
    largest = float(np.ceil(SENSITIVITY[adjacency] * clipping_norm * unit))
    return float(dp.c.make_fix_delta(dp.c.make_zCDP_to_approxDP(one), delta).map(largest)[0])
