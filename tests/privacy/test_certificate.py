"""Certificates: the guarantee by three derivations, and every change in a certificate is found."""

import json
import math

import numpy as np
import pytest

from jaxmia._hashes import file_hash
from jaxmia._validate import InputError
from jaxmia.privacy.accounting import dp_epsilon, noise_multiplier_for
from jaxmia.privacy.certificate import (
    Certificate,
    load_certificate,
    opendp_epsilon,
    rho_of,
    verify_certificate,
    zcdp_epsilon,
    zcdp_noise_multiplier,
)


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.5, 8.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_epsilon_is_the_least_of_the_formula_over_a_grid_of_alpha(rho, delta):
    alpha = 1 + np.geomspace(1e-3, 1e7, 400_000)
    values = alpha * rho + np.log(1 / (alpha * delta)) / (alpha - 1) + np.log1p(-1 / alpha)
    assert zcdp_epsilon(rho, delta) == pytest.approx(max(0.0, values.min()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.25, 1.0, 8.0])
@pytest.mark.parametrize(("steps", "adjacency"), [(1, "add_or_remove_one"), (30, "replace_one")])
def test_noise_lies_above_that_of_the_exact_accountant_and_not_far(epsilon, steps, adjacency):
    budget = {"delta": 1e-5, "steps": steps, "adjacency": adjacency}
    noise = zcdp_noise_multiplier(epsilon=epsilon, **budget)
    exact = noise_multiplier_for(epsilon=epsilon, sampling_rate=1.0, **budget)
    assert exact <= noise <= 1.2 * exact
    assert zcdp_epsilon(rho_of(noise, steps, adjacency), 1e-5) == pytest.approx(epsilon, rel=1e-6)
    assert dp_epsilon(noise_multiplier=noise, sampling_rate=1.0, **budget) <= epsilon


@pytest.mark.parametrize(("steps", "adjacency"), [(1, "add_or_remove_one"), (7, "replace_one")])
def test_epsilon_is_opendps(steps, adjacency):
    pytest.importorskip("opendp", reason="OpenDP is not installed")
    for epsilon in (0.5, 2.0):
        budget = {"delta": 1e-6, "steps": steps, "adjacency": adjacency}
        noise = zcdp_noise_multiplier(epsilon=epsilon, **budget)
        found = opendp_epsilon(noise_multiplier=noise, clipping_norm=0.9, lattice_bits=30, **budget)
        assert found == pytest.approx(epsilon, rel=1e-6)


def told(place, **changes):
    """A certificate with its head, written to a folder."""
    (place / "head.safetensors").write_bytes(b"weights")
    noise = zcdp_noise_multiplier(epsilon=1.0, delta=1e-5, steps=3, adjacency="add_or_remove_one")
    content = {
        "head_file": "head.safetensors", "head_sha256": file_hash(place / "head.safetensors"),
        "recipe": "dp_sgd", "adjacency": "add_or_remove_one", "unit": "record", "epsilon": 1.0 + 1e-7,
        "delta": 1e-5, "rho": rho_of(noise, 3, "add_or_remove_one"), "noise_multiplier": noise,
        "clipping_norm": 1.0, "lattice_bits": 30, "steps": 3, "optimizer": "sgd", "schedule": "constant",
        "learning_rate": 4.0, "momentum": 0.0, "weight_decay": 0.0, "intercept": False, "classes": 3, "dim": 4,
        "expected_members": 30, "normalize": "unit", "components": None, "public_sha256": None,
        "assumed_public": ["S"], "versions": {"jaxmia": "0.1.0"},
    } | changes  # fmt: skip
    path = place / "head.certificate.json"
    path.write_text(json.dumps(Certificate.model_validate(content).model_dump(mode="json")))
    return path


def failed(findings):
    return [finding.what for finding in findings if finding.holds is False]


def test_a_certificate_holds_and_reads_back(tmp_path):
    path = told(tmp_path)
    assert failed(verify_certificate(path)) == []
    assert "differential privacy of each record (add or remove one)" in load_certificate(path).guarantee


@pytest.mark.parametrize(
    ("changes", "caught"),
    [
        ({"epsilon": 0.99}, "epsilon"),
        ({"delta": 1e-6}, "epsilon"),
        ({"noise_multiplier": 1.0}, "rho of all steps"),  # as if halved
        ({"steps": 4}, "rho of all steps"),
        ({"adjacency": "replace_one"}, "rho of all steps"),
        ({"rho": 1e-3}, "rho of all steps"),
        ({"head_sha256": "0" * 64}, "head's file"),
        ({"public_sha256": "0" * 64, "normalize": "public", "components": 4}, "public features"),
    ],
)
def test_what_was_changed_is_found(tmp_path, changes, caught):
    path = told(tmp_path, **changes)
    (tmp_path / "public.npz").write_bytes(b"others")
    found = failed(verify_certificate(path, public=tmp_path / "public.npz"))
    assert any(caught in what for what in found), found


def test_public_features_that_are_not_given_are_not_checked(tmp_path):
    (finding,) = (f for f in verify_certificate(told(tmp_path, public_sha256="1" * 64)) if "public" in f.what)
    assert finding.holds is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "head_file: Field required"),
        ('{"epsilon": -1}', "Field required"),
        ("[]", "certificate of jaxmia"),
    ],
)
def test_what_is_no_certificate_is_refused(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_certificate(tmp_path / "c.json")
    with pytest.raises(InputError, match="must be an existing file"):
        load_certificate(tmp_path / "none.json")
    with pytest.raises(InputError):
        zcdp_epsilon(math.inf, 1e-5)
