"""Slow references for the attacks: one target and one example at a time, nothing shared with the package."""

import numpy as np
import scipy.stats

RESOLUTION = 1e-9


def shadows_of(log_odds, member, target, example):
    """(IN scores, OUT scores) of the other models."""
    others = [model for model in range(len(log_odds)) if model != target]
    inside = [float(log_odds[model, example]) for model in others if member[model, example]]
    outside = [float(log_odds[model, example]) for model in others if not member[model, example]]
    return inside, outside


def global_deviation(log_odds, member, target, side, location):
    """np.std of one side's residuals about each example's centre."""
    centre = {"mean": np.mean, "median": np.median}[location]
    residuals = []
    for example in range(log_odds.shape[1]):
        values = shadows_of(log_odds, member, target, example)[side]
        residuals += [value - centre(values) for value in values]
    return np.std(residuals) if residuals else 0.0


def lira(log_odds, member, *, variance="per_example", location="mean", offline=False, calibrated=False):
    """(statistic, defined) of LiRA."""
    log_odds = np.asarray(log_odds, float)
    centre = {"mean": np.mean, "median": np.median}[location]
    statistic, defined = (
        np.full(log_odds.shape, np.log(0.5) if offline else 0.0),
        np.zeros(log_odds.shape, bool),
    )
    for target, example in np.ndindex(*log_odds.shape):
        if example == 0:
            shared = [global_deviation(log_odds, member, target, side, location) for side in (0, 1)]
            if offline:
                shared[0] = 0.0
            largest = max(shared) if max(shared) > RESOLUTION else 1.0
            shared = [deviation if deviation > RESOLUTION else largest for deviation in shared]
        sides = shadows_of(log_odds, member, target, example)
        if not sides[1] or not (sides[0] or offline):
            continue
        defined[target, example] = True
        deviations = [
            np.std(values)
            if variance == "per_example" and values and np.std(values) > RESOLUTION
            else fallback
            for values, fallback in zip(sides, shared, strict=True)
        ]
        score = log_odds[target, example]
        z_out = (score - centre(sides[1])) / deviations[1]
        if offline:
            statistic[target, example] = scipy.stats.norm.logcdf(z_out)
        elif calibrated:
            shift = centre(sides[0]) - centre(sides[1])
            statistic[target, example] = z_out * (0 if abs(shift) < RESOLUTION else np.sign(shift))
        else:
            normals = [
                scipy.stats.norm.logpdf(score, centre(values), deviation)
                for values, deviation in zip(sides, deviations, strict=True)
            ]
            statistic[target, example] = normals[0] - normals[1]
    return statistic, defined


def threshold(log_odds, member):
    """(statistic, defined) of the loss threshold."""
    log_odds = np.asarray(log_odds, float)
    return scipy.stats.logistic.logcdf(log_odds), np.ones(log_odds.shape, bool)
