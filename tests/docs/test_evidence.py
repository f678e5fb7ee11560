"""Tables of measurements say what the JSON of their benchmarks says, and every measurement is listed."""

import importlib
import json
import pathlib
import re
import sys

import pytest
from test_commands import COMMANDS, parse

ROOT = pathlib.Path(__file__).parents[2]
EVIDENCE = ROOT / "docs" / "evidence"
sys.path.insert(0, str(EVIDENCE))
tables = importlib.import_module("tables")
FILES = sorted(EVIDENCE.rglob("*.json"))


@pytest.mark.parametrize("page", list(tables.pages()), ids=lambda page: page.stem)
def test_pages_are_what_their_json_gives(page):
    assert page.read_text() == tables.rendered(page.read_text()), "make tables"


def test_every_table_is_on_a_page_and_a_changed_number_is_seen():
    marks = [name for page in tables.pages() for _, name, _, _ in tables.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(tables.TABLES)
    text = (ROOT / "README.md").read_text()
    assert tables.rendered(text.replace("| 0.979 |", "| 0.978 |")) == text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_say_where_they_come_from(file):
    held = json.loads(file.read_text())
    assert re.fullmatch(r"[0-9a-f]{40}\+?", held["commit"])
    assert held["seconds"] > 0
    assert re.search(r"core .* Python 3\.\d+\.\d+, jaxmia .* jax .* numpy .* scipy", held["machine"])
    assert re.match(r"(jaxmia|python benchmarks/) ?\w+", held["command"])
    texts = [value for value in held.values() if isinstance(value, str)]
    texts += map(str, held.get("arguments", {}).values())
    assert not [
        text for text in texts if re.search(r"(^|[\s='])/\w", text)
    ]  # names of files, not where they lay
    assert held["rows"]


def test_every_measurement_names_a_page_and_commands_that_exist():
    for entry in tables.entries():
        assert (ROOT / entry["page"]).is_file()
        for command in entry["commands"]:
            if command.startswith("jaxmia"):
                parse(command, whole=True)
            else:
                script = re.search(r"python (?:-m pytest )?([\w/.]+)", command)[1]
                assert (ROOT / script).exists(), command


def test_every_file_is_listed_and_every_page_of_evidence_too():
    listed = {
        file
        for entry in tables.entries()
        for pattern in entry.get("files", ())
        for file in EVIDENCE.glob(pattern)
    }
    assert listed == set(FILES)
    index = (ROOT / "docs" / "index.md").read_text()
    (names,) = re.findall(r":caption: Evidence\n:hidden:\n\n(.*?)\n```", index, re.S)
    pages = {f"docs/{name}.md" for name in names.split() if name not in ("evidence/index", "benchmarks")}
    assert pages <= {entry["page"] for entry in tables.entries()}


def test_the_demos_short_table_is_the_median_over_seeds_of_the_kept_rows():
    held = json.loads((EVIDENCE / "demo.json").read_text())
    rows = [dict(zip(held["columns"], row, strict=True)) for row in held["rows"]]
    found = sorted(
        row["tpr"]
        for row in rows
        if (row["attack"], row["evaluation"], row["shots"], row["fpr"]) == ("lira", "calibrated", 64, 0.01)
    )
    assert len(found) == 3
    (line,) = re.findall(r"^\| 64 \|.*$", tables.TABLES["demo_short"](), re.M)
    assert line.split(" | ")[5] == f"{found[1]:.3f}"
    assert "run" in COMMANDS.commands
