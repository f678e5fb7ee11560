"""Releases from a file to an audited, reported private head; two runs differ by the stated noise; what is refused."""

import json
import pathlib

import numpy as np
import pytest
import scipy.stats
from commands import jaxmia

from jaxmia._validate import InputError
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit.run import run_audit
from jaxmia.audit.settings import AuditConfig
from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.privacy.certificate import load_certificate, verify_certificate
from jaxmia.private.recipes import class_means
from jaxmia.release.run import release_head
from jaxmia.report import make_report
from jaxmia.studies.settings.toml import parse_config

opendp = pytest.importorskip("opendp", reason="OpenDP is not installed")
safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")

DIM, COMPONENTS, CLASSES, EACH = 96, 64, 3, 80


def some_features(seed, examples, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    means = np.random.default_rng(7).normal(size=(classes, DIM)) * (np.arange(DIM) < 4)
    return means[labels] + rng.normal(size=(examples, DIM)) * np.where(np.arange(DIM) < 6, 1.0, 0.2), labels


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    features, labels = some_features(0, CLASSES * EACH)
    member = np.random.default_rng(1).random(len(labels)) < 0.5
    person = np.arange(len(labels)) // 6
    np.savez(folder / "private.npz", features=features, labels=labels, member=member, person=person)
    save_features(feature_set(*some_features(3, 200, classes=5)), folder / "public.npz")
    return folder


def settings(place, **tables):
    base = {
        "data": {"features": str(place / "private.npz")},
        "grid": {"classes": [CLASSES], "shots": [EACH // 2]},
        "train": {"normalize": "public", "public": str(place / "public.npz"), "components": COMPONENTS},
        "privacy": {"recipe": "class_means"},
    }
    return parse_config(base | tables)


def is_standard_normal(values):
    """By Kolmogorov and Smirnov, and by its deviation; the noise has no seed, so that errors are one in a million."""
    near = abs(values.std() - 1) < 5 / np.sqrt(2 * values.size)
    return near and scipy.stats.kstest(values, "norm").pvalue > 1e-6


def weights(found):
    return safetensors.load_file(found.head)


@pytest.fixture(scope="module")
def released(place):
    return [
        release_head(settings(place), place / f"head{number}.safetensors", epsilon=4.0) for number in range(2)
    ]


def test_two_releases_differ_by_the_stated_noise(released):
    kernels = [weights(found)["weight"] for found in released]
    told = released[0].certificate
    assert told.epsilon == pytest.approx(4.0, rel=1e-6)
    assert told.epsilon <= 4.0
    assert told.recipe == "class_means"
    step = told.learning_rate * told.noise_multiplier * told.clipping_norm / told.expected_members
    apart = (kernels[0] - kernels[1]).astype(float).ravel() / (step * np.sqrt(2))
    assert not np.any(apart == 0)
    assert is_standard_normal(apart)
    assert not is_standard_normal(apart / 2)  # what halved noise would look like


def test_a_head_is_the_members_means_and_noise_of_the_stated_size(place, released):
    from jaxmia.data.feature_set import load_features
    from jaxmia.data.public import load_projection, projected

    data = load_features(place / "private.npz")
    member = np.load(place / "private.npz")["member"]
    public = load_projection(place / "public.npz", components=COMPONENTS, private=data)
    inputs = projected(data, public).features[member]
    sums = np.eye(CLASSES)[data.labels[member]].T @ inputs
    told = released[0].certificate
    expected = told.learning_rate * (sums - sums.mean(axis=0)) / told.expected_members
    noise = (weights(released[0])["weight"] - expected) / (
        told.learning_rate * told.noise_multiplier * told.clipping_norm / told.expected_members
    )
    assert is_standard_normal(noise.ravel())
    rule = class_means(
        classes=CLASSES, shots=EACH // 2, dim=COMPONENTS, noise_multiplier=told.noise_multiplier
    )
    assert told.learning_rate == pytest.approx(
        rule.learning_rate, rel=0.2
    )  # whose noise is the exact accountant's


def test_a_certificate_holds_nothing_of_the_noise_or_of_the_members(released):
    text = released[0].path.read_text()
    content = json.loads(text)
    assert "seed" not in text
    assert "noise" not in {*content} - {"noise_multiplier"}
    assert content["expected_members"] == CLASSES * EACH // 2  # as declared, not as counted
    other = json.loads(released[1].path.read_text())
    differs = {name for name in content if content[name] != other[name]}
    assert differs == {"head_file", "head_sha256"}
    assert all(finding.holds is not False for finding in verify_certificate(released[0].path))


def test_steps_and_persons(place):
    train = {"normalize": "unit", "optimizer": "sgd", "steps": 3, "learning_rate": 2.0}
    tables = {
        "train": train,
        "privacy": {"recipe": "given", "clipping_norm": 0.5},
        "membership": {"unit": "person"},
        "shadows": {"design": "fixed_size"},
    } | {"membership": {"unit": "person", "shots": "persons"}}
    found = release_head(settings(place, **tables), place / "persons.safetensors", epsilon=2.0)
    told = found.certificate
    assert (told.recipe, told.steps, told.unit) == ("dp_sgd", 3, "person")
    assert told.adjacency == "replace_one"
    assert weights(found)["weight"].shape == (CLASSES, DIM)
    assert weights(found)["bias"].shape == (CLASSES,)
    assert all(finding.holds is not False for finding in verify_certificate(found.path))


def test_an_audit_reads_the_certificate_and_the_report_shows_it(place, released, monkeypatch, tmp_path):
    monkeypatch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
    config = AuditConfig.model_validate(
        {
            "fpr": [0.1],
            "attack": ["lira", "whitebox"],
            "data": {"features": str(place / "private.npz")},
            "head": {"file": str(released[0].head), "certificate": str(released[0].path)},
            "train": {"match": True, "public": str(place / "public.npz"), "normalize": "public"},
            "shadows": {"models": 64},
            "context": {"randomised": True},
        }
    )
    result = run_audit(config, tmp_path / "audit")
    content = json.loads((tmp_path / "audit" / "audit.json").read_text())
    told = released[0].certificate
    assert content["certificate"]["head_sha256"] == told.head_sha256
    assert content["shadows"]["privacy"]["noise_multiplier"] == told.noise_multiplier
    assert content["settings"]["context"]["epsilon"] == told.epsilon
    assert content["settings"]["train"]["steps"] == 1
    others = result.attack.results.query("targets == 'others' and status == 'ok'")
    ceiling = content["ceilings"][0]["tpr"]
    assert len(others)
    assert (others["tpr_low"] <= ceiling).all()
    page = json.dumps(make_report(tmp_path / "audit").to_json())
    assert "Certificate of the released head" in page
    assert told.public_sha256[:12] in page
    _refuses_what_contradicts(config, tmp_path, released)


def _refuses_what_contradicts(config, tmp_path, released):
    def refused(message, **tables):
        changed = AuditConfig.model_validate(config.model_dump(exclude_unset=True) | tables)
        with pytest.raises(InputError, match=message):
            run_audit(changed, tmp_path / "other")

    other = {"file": str(released[1].head), "certificate": str(released[0].path)}
    refused("be the head of the certificate", head=other)
    refused("leave steps to the head's certificate", train={"steps": 5})
    refused("context.epsilon=1.0 must be left out", context={"epsilon": 1.0})
    refused("must name the public features|name the public features", train={"match": True})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"tuning": {}, "privacy": {"recipe": "given"}}, "tuned on members"),
        (
            {"train": {"normalize": "standardize"}, "privacy": {"recipe": "given"}},
            "statistics of the members",
        ),
        ({"train": {"batch_size": 8}, "privacy": {"recipe": "given"}}, "shared order have no proof"),
        ({"train": {"optimizer": "newton", "ridge": 1.0}, "privacy": {"recipe": "given"}}, "of stated steps"),
        (
            {"train": {"class_weight": "balanced"}, "privacy": {"recipe": "given"}},
            "weights of the members' counts",
        ),
        ({"grid": {"classes": [3], "shots": [8, 16]}}, "grid.shots=\\[8, 16\\] must be one number"),
        ({"grid": {"classes": [2], "shots": [8]}}, "grid.classes=2 must be 3"),
    ],
)
def test_what_has_no_proof_is_refused_before_any_training(place, tmp_path, tables, message):
    with pytest.raises(InputError, match=message):
        release_head(settings(place, **tables), tmp_path / "head.safetensors", epsilon=1.0)
    assert list(tmp_path.iterdir()) == []


def test_public_features_with_a_member_are_refused(place, tmp_path):
    held = np.load(place / "private.npz")
    mixed = np.concatenate([some_features(3, 60)[0], held["features"][:1]])
    save_features(feature_set(mixed, np.arange(len(mixed)) % 2), tmp_path / "public.npz")
    train = {"normalize": "public", "public": str(tmp_path / "public.npz"), "components": COMPONENTS}
    with pytest.raises(InputError, match="1 of these are among its own"):
        release_head(settings(place, train=train), tmp_path / "head.safetensors", epsilon=1.0)


def test_a_head_is_never_written_over(place, released):
    with pytest.raises(InputError, match="each release spends epsilon again"):
        release_head(settings(place), released[0].head, epsilon=1.0)


def test_the_commands_release_and_verify_certificate(place, tmp_path, capsys):
    text = (
        '[data]\nfeatures = "private.npz"\n[grid]\nclasses = [3]\nshots = [40]\n'
        '[train]\nnormalize = "unit"\n[privacy]\nrecipe = "class_means"\n'
    )
    (place / "release.toml").write_text(text)
    head = tmp_path / "head.safetensors"
    code, out, _ = jaxmia(
        capsys, "release", place / "release.toml", "--epsilon", "1", "--out", head, columns=140
    )
    assert code == 0, out
    assert "Certificate" in out
    certificate = tmp_path / "head.certificate.json"
    code, out, _ = jaxmia(capsys, "verify", certificate, columns=140)
    assert code == 0
    assert "It holds" in out
    assert load_certificate(certificate).public_sha256 is None
    content = json.loads(certificate.read_text())
    pathlib.Path(certificate).write_text(json.dumps(content | {"epsilon": 0.5}))
    code, out, err = jaxmia(capsys, "verify", certificate, columns=140)
    assert code == 2
    assert "does not hold: epsilon" in err
