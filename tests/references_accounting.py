"""References for accounting that share no code with jaxmia or with privacy loss distributions."""

import csv
import itertools
import math
import pathlib

import numpy as np
import scipy.optimize
from scipy import integrate, stats

OPACUS = pathlib.Path(__file__).parent / "data" / "opacus_epsilon.csv"


def gaussian_delta(epsilon, mu):
    """Delta of a mu-GDP mechanism at epsilon: Balle and Wang 2018 (arXiv 1805.06530), equation 6."""
    second = stats.norm.logcdf(-mu / 2 - epsilon / mu) + epsilon
    return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(second)


def gaussian_epsilon(delta, mu):
    """Epsilon of a mu-GDP mechanism at delta."""
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    return scipy.optimize.brentq(lambda e: gaussian_delta(e, mu) - delta, 0, mu**2 + 40 * mu, xtol=1e-13)


def one_step_delta(epsilon, *, noise_multiplier, sampling_rate, upper, lower):
    """Hockey-stick divergence of two sampled Gaussians by quadrature.

    upper and lower are the shifts of the sum by the record in the two worlds, in clipping norms: 1, 0 or -1.
    """

    def density(x, move):
        moved, unmoved = (stats.norm.pdf(x, centre, noise_multiplier) for centre in (move, 0.0))
        return sampling_rate * moved + (1 - sampling_rate) * unmoved

    def excess(x):
        return max(density(x, upper) - math.exp(epsilon) * density(x, lower), 0.0)

    edge = 1 + 12 * noise_multiplier
    pieces = np.linspace(-edge, edge, 201)
    return sum(integrate.quad(excess, a, b)[0] for a, b in itertools.pairwise(pieces))


def opacus_recipes():
    """Recipes with the epsilons of Opacus's two accountants."""
    with OPACUS.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
