import zlib

import numpy as np
import pytest
import scipy.stats
from references_evaluation import gaussian_result, result_of

from jaxmia._validate import InputError
from jaxmia.stats.bootstrap import ROW_RESAMPLES, bootstrap_interval, row_intervals
from jaxmia.stats.operating_points import tpr_at_fpr
from jaxmia.stats.p_values import CALIBRATED, EVALUATIONS
from tests import references_evaluation as references


def resampled_tprs(result, fpr, evaluation, *, seed, num_resamples):
    """TPR of each resample, from arrays in which a model drawn twice stands twice."""
    models = len(result.member)
    draws = np.random.default_rng(seed).multinomial(models, np.full(models, 1 / models), num_resamples)
    p_values = None
    if evaluation in CALIBRATED:
        p_values = references.calibrated_p_values(result, CALIBRATED[evaluation])
    tprs = []
    for draw in draws:
        rows = np.repeat(np.arange(models), draw)
        statistic, member = result.statistic[rows], result.member[rows]
        if evaluation == "pooled":
            tprs.append(references.tpr_at_fpr(statistic[member], statistic[~member], fpr))
        elif evaluation == "per_target":
            tprs.append(tpr_at_fpr(result_of(statistic, member), fpr, evaluation=evaluation).tpr)
        else:
            tprs.append(np.mean(p_values[rows][member] <= fpr))
    return tprs


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("block_size", "digits"), [(1024, 16), (7, 16), (7, 0)])
def test_interval_is_that_of_repeated_models(evaluation, block_size, digits, monkeypatch):
    monkeypatch.setattr("jaxmia.stats.bootstrap.BLOCK_SIZE", block_size)
    fpr = 0.5
    # Calibrated: enough models for the null of every example. Otherwise: enough examples in every model.
    models, examples = (70, 15) if evaluation in CALIBRATED else (6, 56)
    result = gaussian_result(30, models=models, examples=examples, digits=digits)
    tprs = resampled_tprs(result, fpr, evaluation, seed=5, num_resamples=20)
    expected = np.quantile(tprs, [0.05, 0.95])
    found = bootstrap_interval(result, fpr, evaluation=evaluation, seed=5, num_resamples=20, confidence=0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_width_is_the_deviation_between_models():
    # Members of model k stand d_k above the non-members: its TPR is Phi(Phi^-1(fpr) + d_k), and the mean TPR
    # of M models has the variance Var(TPR_k) / M, beside a small one within models.
    models, examples, fpr, num_resamples = 400, 800, 0.1, 2000
    rng = np.random.default_rng(31)
    member = np.arange(examples) % 2 == rng.integers(2, size=(models, 1))
    shift = rng.normal(1.5, 1, size=(models, 1))
    result = result_of(rng.normal(size=member.shape) + shift * member, member)
    quantile = scipy.stats.norm.ppf(fpr)
    shifted = quantile + rng.normal(1.5, 1, size=1_000_000)
    tprs, slope = (
        scipy.stats.norm.cdf(shifted),
        scipy.stats.norm.pdf(shifted) / scipy.stats.norm.pdf(quantile),
    )
    within = np.mean(tprs * (1 - tprs) + slope**2 * fpr * (1 - fpr)) / (examples / 2)
    width = 2 * 1.96 * np.sqrt((tprs.var() + within) / models)
    # Errors: of a deviation from M models, sqrt((kurtosis - 1) / 4M) of it, below 1 / sqrt(4M) for this law
    # of kurtosis below 2; of each end from R resamples, sqrt(0.025 * 0.975 / R) / pdf(1.96) deviations.
    assert scipy.stats.kurtosis(tprs, fisher=False) < 2
    end = np.sqrt(0.025 * 0.975 / num_resamples) / scipy.stats.norm.pdf(1.96)
    error = np.sqrt(1 / (4 * models) + 2 * (end / (2 * 1.96)) ** 2)
    low, high = bootstrap_interval(result, fpr, evaluation="per_target", seed=6, num_resamples=num_resamples)
    assert high - low == pytest.approx(width, rel=4 * error)
    # Clopper and Pearson take all scores as independent: far too narrow.
    point = tpr_at_fpr(result, fpr, evaluation="per_target")
    assert low < point.tpr < high
    assert point.tpr_high - point.tpr_low < width / 5


def test_a_perfect_attack_has_a_point_for_an_interval():
    # 1024 members, a whole block, and all of them above the threshold.
    member = np.tile(np.arange(512) % 2 == 0, (4, 1))
    result = result_of(np.where(member, 1.0, -1.0) + np.random.default_rng(34).random(member.shape), member)
    for evaluation in ("pooled", "per_target"):
        found = bootstrap_interval(result, 0.1, evaluation=evaluation, seed=7, num_resamples=30)
        assert found == (1, 1)


def test_the_seed_decides():
    result = gaussian_result(32)
    first, again, other = (
        bootstrap_interval(result, 0.1, evaluation="pooled", seed=seed, num_resamples=50)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_bad_requests_are_refused():
    result = gaussian_result(33, models=3, examples=100)
    with pytest.raises(InputError, match="needs at least 1000 non-member scores"):
        bootstrap_interval(result, 0.01, evaluation="pooled", seed=0)
    with pytest.raises(InputError, match="seed=-1"):
        bootstrap_interval(result, 0.1, evaluation="pooled", seed=-1)
    with pytest.raises(InputError, match="num_resamples=0"):
        bootstrap_interval(result, 0.1, evaluation="pooled", seed=0, num_resamples=0)
    with pytest.raises(InputError, match=r"confidence=1\.0"):
        bootstrap_interval(result, 0.1, evaluation="pooled", seed=0, confidence=1.0)
    member = result.member.copy()
    member[1] = False
    with pytest.raises(InputError, match="models without members or without non-members=1"):
        bootstrap_interval(result_of(result.statistic, member), 0.1, evaluation="pooled", seed=0)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_intervals_of_rows_are_those_of_each_fpr(evaluation):
    models, examples = (70, 15) if evaluation in CALIBRATED else (6, 56)
    result = gaussian_result(35, models=models, examples=examples)
    seed = zlib.crc32(np.packbits(result.member).tobytes())
    found = row_intervals(result, [0.5, 1e-6], evaluation=evaluation)
    alone = bootstrap_interval(result, 0.5, evaluation=evaluation, seed=seed, num_resamples=ROW_RESAMPLES)
    assert found[0] == alone
    assert np.isnan(found[1]).all()  # unresolved


def test_intervals_of_rows_are_of_the_targets_alone():
    result = gaussian_result(36, models=30, examples=40)
    rows = list(range(12))
    chosen = result_of(result.statistic[rows], result.member[rows])
    by_rows = row_intervals(result, [0.5], evaluation="pooled", targets=rows)
    assert by_rows == row_intervals(chosen, [0.5], evaluation="pooled")
    assert np.isnan(row_intervals(result, [0.5], evaluation="pooled", targets=[3])).all()
