"""Slow references for the attacks: one target and one example at a time, nothing shared with the package."""

import numpy as np
import scipy.special
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


def difficulty(log_odds, member):
    """(statistic, defined) of the difficulty-calibrated loss."""
    log_odds = np.asarray(log_odds, float)
    statistic, defined = np.zeros(log_odds.shape), np.zeros(log_odds.shape, bool)
    log_p = scipy.stats.logistic.logcdf(log_odds)
    for target, example in np.ndindex(*log_odds.shape):
        outside = shadows_of(log_p, member, target, example)[1]
        if outside:
            defined[target, example] = True
            statistic[target, example] = log_p[target, example] - np.mean(outside)
    return statistic, defined


def label_ratio(log_odds, member, *, offline=False):
    """(statistic, defined) of the likelihood ratio of a decision."""
    right = np.asarray(log_odds, float) > 0
    statistic, defined = np.zeros(right.shape), np.zeros(right.shape, bool)
    for target, example in np.ndindex(*right.shape):
        sides = shadows_of(right, member, target, example)
        if not sides[1] or not (sides[0] or offline):
            continue
        defined[target, example] = True
        if len(set(right[:, example].tolist())) == 1:
            continue
        prior = np.mean([right[model].mean() for model in range(len(right)) if model != target])
        mine = right[target, example]
        log_p = []
        for side in sides:
            p = (sum(side) + prior) / (len(side) + 1)
            log_p.append(np.log(p if mine else 1 - p))
        statistic[target, example] = (-log_p[1] if mine else 0.0) if offline else log_p[0] - log_p[1]
    return statistic, defined


def log_mean(log_values):
    """Log of the mean of exp(log_values)."""
    return scipy.special.logsumexp(log_values) - np.log(len(log_values))


def log_expected(sides, offline, a):
    """log p̄ from the log probabilities of the IN and OUT shadows, or None."""
    if offline:
        if not sides[1]:
            return None
        terms, weights = [log_mean(sides[1]), 0.0], [(1 + a) / 2, (1 - a) / 2]
        return scipy.special.logsumexp(terms, b=weights)
    return log_mean([log_mean(sides[0]), log_mean(sides[1])]) if sides[0] and sides[1] else None


def base(log_odds, member, *, offline=False, a=None, targets=None):
    """(statistic, defined) of BASE, of all targets or of a few."""
    log_odds = np.asarray(log_odds, float)
    log_p = scipy.stats.logistic.logcdf(log_odds)
    if offline and a is None:
        a = tuned_a(log_odds, member)
    a = np.broadcast_to(0.0 if a is None else a, len(log_odds))
    statistic, defined = np.zeros(log_odds.shape), np.zeros(log_odds.shape, bool)
    for target, example in np.ndindex(*log_odds.shape):
        if targets is not None and target not in targets:
            continue
        expected = log_expected(shadows_of(log_p, member, target, example), offline, a[target])
        if expected is not None:
            defined[target, example] = True
            statistic[target, example] = log_p[target, example] - expected
    return statistic, defined


def tuned_a(log_odds, member):
    """For every target, the a that best attacks the shadow with the next higher mean score (highest: lower)."""
    models = len(log_odds)
    order = sorted(range(models), key=lambda model: np.mean(log_odds[model]))
    tuned = np.zeros(models)
    for position, target in enumerate(order):
        shadow = order[position + 1] if position + 1 < models else order[position - 1]
        rest = [shadow, *(model for model in order if model not in (target, shadow))]
        best = -1.0
        for a in np.arange(11) / 10:
            statistic, defined = base(log_odds[rest], member[rest], offline=True, a=a, targets=[0])
            statistic = statistic[0].round(12)
            members = statistic[defined[0] & member[shadow]]
            nonmembers = statistic[defined[0] & ~member[shadow]]
            area = np.sum(members[:, None] > nonmembers)
            if area > best:
                tuned[target], best = a, area
    return tuned


def rmia(log_odds, member, *, offline=False, gamma=1.0, a=None):
    """(statistic, defined) of RMIA over each target's own non-members other than the example."""
    ratios, defined = base(log_odds, member, offline=offline, a=a)
    ratios = ratios.round(12)
    statistic = np.full(ratios.shape, 0.5)
    for target, example in np.ndindex(*ratios.shape):
        others = np.arange(ratios.shape[1]) != example
        population = ratios[target, defined[target] & ~member[target] & others]
        if len(population):
            statistic[target, example] = np.mean(ratios[target, example] - np.log(gamma) > population)
        else:
            defined[target, example] = False
    return statistic, defined


def bavaria_prior(log_odds, member, target):
    """[(mu_0, kappa_0, alpha_0, beta_0) of IN, of OUT] by the method of moments over the examples."""
    examples = [shadows_of(log_odds, member, target, example) for example in range(log_odds.shape[1])]
    pooled = []
    for side in (0, 1):
        groups = [np.array(sides[side]) for sides in examples]
        degrees = sum(max(len(group) - 1, 0) for group in groups)
        pooled.append(
            sum(((group - group.mean()) ** 2).sum() for group in groups if len(group)) / max(degrees, 1)
        )
    priors = []
    for side in (0, 1):
        groups = [np.array(sides[side]) for sides in examples if sides[side]]
        within = pooled[side] if pooled[side] > RESOLUTION**2 else max(pooled)
        within = within if within > RESOLUTION**2 else 1.0
        means = np.array([group.mean() for group in groups])
        if len(means):
            between = means.var() - within * np.mean([1 / len(group) for group in groups])
            kappa = within / max(between, within / 1000)
        else:
            kappa = 1000.0
        repeated = [group for group in groups if len(group) > 1]
        variances = np.array([group.var(ddof=1) for group in repeated])
        alpha = 3.0
        if len(variances) and variances.mean() > RESOLUTION**2:
            squares = variances**2 / np.array([1 + 2 / (len(group) - 1) for group in repeated])
            alpha = 2 + 1 / max(squares.mean() / variances.mean() ** 2 - 1, 1e-3)
        location = means.mean() if len(means) else np.mean(log_odds)
        priors.append((location, kappa, alpha, (alpha - 1) * within))
    return priors


def bavaria(log_odds, member, log_density):
    """(statistic, defined) with the density of the posterior (mu_n, kappa_n, alpha_n, beta_n)."""
    log_odds = np.asarray(log_odds, float)
    statistic, defined = np.zeros(log_odds.shape), np.zeros(log_odds.shape, bool)
    for target in range(len(log_odds)):
        priors = bavaria_prior(log_odds, member, target)
        for example in range(log_odds.shape[1]):
            sides = shadows_of(log_odds, member, target, example)
            if not (sides[0] and sides[1]):
                continue
            defined[target, example] = True
            densities = []
            for (location, kappa, alpha, beta), values in zip(priors, sides, strict=True):
                # One score at a time: the textbook update for n = 1, n times.
                for value in values:
                    beta += kappa * (value - location) ** 2 / (2 * (kappa + 1))
                    location = (kappa * location + value) / (kappa + 1)
                    kappa, alpha = kappa + 1, alpha + 0.5
                densities.append(log_density(log_odds[target, example], location, kappa, alpha, beta))
            statistic[target, example] = densities[0] - densities[1]
    return statistic, defined


def bavaria_t(log_odds, member):
    """(statistic, defined) with Student-t predictive densities."""
    return bavaria(
        log_odds,
        member,
        lambda s, location, kappa, alpha, beta: scipy.stats.t.logpdf(
            s, 2 * alpha, location, np.sqrt(beta * (kappa + 1) / (alpha * kappa))
        ),
    )


def bavaria_n(log_odds, member):
    """(statistic, defined) with Gaussians of the posterior means of mean and variance."""
    return bavaria(
        log_odds,
        member,
        lambda s, location, kappa, alpha, beta: scipy.stats.norm.logpdf(
            s, location, np.sqrt(beta / (alpha - 1))
        ),
    )


def folds_of(features, folds):
    """The fold of every example: its place, modulo folds, in the lexicographic order of the features."""
    order = sorted(range(len(features)), key=lambda example: tuple(features[example][::-1]))
    fold = np.empty(len(features), int)
    fold[order] = np.arange(len(features)) % folds
    return fold


def ridge_prediction(design, response, penalty, at):
    """Prediction at a row, from least squares with rows sqrt(penalty) e_j for every column but the last."""
    extra = np.sqrt(penalty) * np.eye(design.shape[1])[:-1]
    coefficients = np.linalg.lstsq(
        np.concatenate([design, extra]), np.append(response, np.zeros(len(extra))), rcond=None
    )[0]
    return at @ coefficients


def quantile(log_odds, member, *, features, folds=5, ridge=None):
    """(statistic, defined) of the Gaussian quantile attack."""
    log_odds = np.asarray(log_odds, float)
    features = np.asarray(features, float)
    ridge = features.shape[1] if ridge is None else ridge
    columns = [(column - column.mean()) / column.std() for column in features.T]
    design = np.stack([*columns, np.ones(len(features))], axis=1)
    fold = folds_of(features, folds)
    statistic, defined = np.zeros(log_odds.shape), np.zeros(log_odds.shape, bool)
    for target, example in np.ndindex(*log_odds.shape):
        training = [j for j in range(len(features)) if fold[j] != fold[example] and not member[target, j]]
        if len(training) < 2:
            continue
        defined[target, example] = True
        known, scores = design[training], log_odds[target, training]
        rows = np.concatenate([known, design[[example]]])
        fitted = np.array([ridge_prediction(known, scores, ridge, row) for row in rows])
        squares = (scores - fitted[:-1]) ** 2
        logs = np.log(squares + max(1e-3 * squares.mean(), RESOLUTION**2))
        factors = [ridge_prediction(known, logs - logs.mean(), ridge, row) for row in rows]
        factors = np.exp(np.clip(factors, -np.log(100), np.log(100)))
        variance = factors[-1] * max(np.mean(squares / factors[:-1]), RESOLUTION**2)
        statistic[target, example] = (log_odds[target, example] - fitted[-1]) / np.sqrt(variance)
    return statistic, defined
