"""Folders that reports are made of: an audit, a run with a private level, and attacks on a file of scores."""

import numpy as np
import pytest
from audits import head_of_members, lay_out, real_records

from jaxmia import run_experiment
from jaxmia.audit import attack_scores as attack_run
from jaxmia.audit.run import run_audit
from jaxmia.studies import grid
from jaxmia.studies.settings.toml import load_config


@pytest.fixture(scope="session")
def audited(tmp_path_factory):
    """The folder of an audit, with one class whose name is markup."""
    place, records = tmp_path_factory.mktemp("audit"), real_records()
    records["class_names"] = np.array(["<b>bold</b> & 'quoted'", *records["class_names"][1:]])
    lay_out(place, records, head_of_members(records), more='[context]\ncontroller = "<i>City</i> hospital"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
        run_audit(place / "audit.toml", place / "out")
    return place / "out"


@pytest.fixture(scope="session")
def studied(tmp_path_factory):
    """The folder of a run with a private level."""
    out = tmp_path_factory.mktemp("run") / "out"
    words = [
        "shadows.models=17",
        "grid.shots=[8,16,32]",
        "train.steps=5",
        "fpr=[0.1,0.01]",
        "privacy.epsilon=[inf,8]",
    ]
    with pytest.MonkeyPatch.context() as patch:  # reports draw their own figures
        patch.setattr(grid, "plot_power_law", lambda *args: [])
        patch.setattr(grid, "plot_privacy", lambda *args: [])
        run_experiment(load_config("smoke", words), out)
    return out


@pytest.fixture(scope="session")
def attacked(tmp_path_factory):
    """The folder of attacks on planted scores, with one model under audit."""
    return _attacked(tmp_path_factory.mktemp("attack") / "out", target=3)


@pytest.fixture(scope="session")
def attacked_all(tmp_path_factory):
    """The same of all models alike."""
    return _attacked(tmp_path_factory.mktemp("attack") / "out", target=None)


def _attacked(out, *, target):
    rng = np.random.default_rng(1)
    member = rng.random((33, 240)) < 0.5
    shift = rng.gamma(2.0, 0.5, 240)
    arrays = {"log_odds": rng.normal(size=member.shape) + shift * member, "member": member}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack_run, "plot_rocs", lambda *args, **options: [])
        attack_run.attack_scores(arrays, out, attack=["lira", "threshold"], fpr=[0.1, 0.01], target=target)
    return out
