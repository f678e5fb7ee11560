"""People check the pictures; the tests check the data that they are drawn from."""

import xml.etree.ElementTree

import numpy as np
import pytest
from references_evaluation import gaussian_result, result_of

from jaxmia.plots import plot_rocs, thinned
from jaxmia.stats.roc import roc


@pytest.mark.parametrize("digits", [16, 1, 0])
def test_a_thinned_curve_holds_what_is_reached_at_every_fpr_of_a_log_grid(digits):
    curve = roc(gaussian_result(41, models=20, examples=1000, digits=digits))
    thin = thinned(curve, num_points=100)
    assert len(thin.fpr) <= 100
    assert thin.tpr[-1] == thin.fpr[-1] == 1
    points = set(zip(curve.fpr, curve.tpr, curve.threshold, strict=True))
    assert set(zip(thin.fpr, thin.tpr, thin.threshold, strict=True)) <= points
    for fpr in np.geomspace(1 / curve.num_nonmembers, 1, 100):
        assert thin.tpr[thin.fpr <= fpr].max() == curve.tpr[curve.fpr <= fpr].max()
    np.testing.assert_array_equal(thinned(thin, num_points=100).fpr, thin.fpr)


@pytest.mark.thorough
def test_rocs_are_drawn_with_chance_and_resolution(tmp_path):
    curves = {f"attack {number}": roc(gaussian_result(number)) for number in range(8)}
    paths = plot_rocs(curves, tmp_path / "roc-row 3", title="pooled")
    assert [path.name for path in paths] == ["roc-row-3.png", "roc-row-3.svg"]
    assert paths[0].stat().st_size > 10_000
    comments = (tmp_path / "roc-row-3.svg").read_text()
    for words in [*curves, "chance", "pooled", "resolution: 10 of"]:
        assert f"<!-- {words}" in comments
    xml.etree.ElementTree.parse(paths[1])


@pytest.mark.parametrize(
    "result",
    [
        result_of([[1, 0]], [[True, False]]),
        result_of([[0, 0]], [[True, False]]),
        result_of([[0, 1]], [[True, False]]),
    ],
)
def test_the_smallest_curves_can_be_drawn(tmp_path, result):
    plot_rocs({"tiny": roc(result)}, tmp_path / "roc", title="tiny")
