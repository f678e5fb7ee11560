"""Text of any encoding is read, any text is shown literally, and one rule resolves paths."""

import io
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import rich.console
import rich.progress
from commands import jaxmia

from jaxmia import _progress as progress
from jaxmia import _terminal as terminal
from jaxmia._text import printable
from jaxmia._validate import InputError
from jaxmia.audit.settings import TEMPLATE, load_audit
from jaxmia.cli.rendering import rendered
from jaxmia.cli.tables import audit_tables, failures_table, triage_tables
from jaxmia.report import make_report
from jaxmia.studies.settings.toml import load_config, load_sweep

MARKUP = ["[/b]", "[red]alice[/red]", "[alice]55", ":smile:", "[link=x]y"]
EXPERIMENT = '[data]\nfeatures = "mine.npz"\n[grid]\nclasses = [2]\nshots = [8]\n'


def shown(*blocks, markup):
    file = io.StringIO()
    console = rich.console.Console(file=file, width=160, markup=markup) if markup else None
    if console is None:
        console = terminal.console()
        console.file, console._width = file, 160
    console.print(*rendered(blocks))
    return file.getvalue()


@pytest.mark.parametrize("markup", [True, False])
def test_tables_show_names_as_they_stand_on_any_console(markup):
    records = pd.DataFrame(
        {
            "id": MARKUP,
            "class_name": MARKUP[::-1],
            "separation": 1.0,
            "tpr_0.1": 0.5,
            "tpr_0.1_error": 0.1,
            "member": True,
            "p_value": 0.5,
        }
    )
    empty = pd.DataFrame({"targets": [], "evaluation": [], "status": [], "fpr": []})
    triage = shown(*triage_tables(records.drop(columns="tpr_0.1_error"), top=5), markup=markup)
    audit = shown(*list(audit_tables(empty, records, {}, {}))[-1:], markup=markup)
    failed = shown(failures_table([(*MARKUP[:3], "at [models, examples]")]), markup=markup)
    for name in MARKUP if not markup else MARKUP[:3]:
        assert name in triage
        assert name in audit
    assert "[/b]" in failed
    assert "at [models, examples]" in failed


def test_a_console_reads_nothing_as_markup():
    line = "logits of shape (3, 2) are [examples, models]: [/b] :smile:"
    assert shown(line, markup=False) == f"{line}\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark_are_read(tmp_path, encoding):
    (tmp_path / "r.toml").write_text(EXPERIMENT.replace("\n", "\r\n"), encoding=encoding, newline="")
    (tmp_path / "a.toml").write_text(TEMPLATE, encoding=encoding)
    assert load_config(tmp_path / "r.toml").grid.shots == (8,)
    assert load_sweep(tmp_path / "r.toml").grid.shots == (8,)
    assert load_audit(tmp_path / "a.toml").train.match
    with pytest.raises(InputError, match="it has neither"):
        make_report(tmp_path, context=tmp_path / "a.toml")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    from jaxmia.studies.folder.tables import load_json

    (tmp_path / "m.json").write_text(json.dumps({"a": 1}), encoding="utf-8-sig")
    assert load_json(tmp_path, "m.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = \xe9", "must be a text in UTF-8; the byte at place 7 is none. Save it as UTF-8"),
        (b"a = " + b"[" * 5000, "must be valid TOML: nested too deeply"),
        (b"#" * (2**24 + 1), "at most 16 MiB"),
        (b"steps == 5", "must be valid TOML"),
    ],
)
def test_settings_that_are_none_are_one_line(tmp_path, content, message):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "r.toml")


@pytest.fixture
def places(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.toml").write_text(EXPERIMENT)
    (tmp_path / "sub" / "a.toml").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def features_of(kind, file, *overrides):
    if kind == "run":
        return load_config(file, overrides).data.features
    return load_sweep(file, overrides).datasets[0].features


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_paths_start_at_the_file_and_those_of_set_where_one_stands(places, kind):
    file = "sub/r.toml"
    assert features_of(kind, file) == str(places / "sub" / "mine.npz")
    assert features_of(kind, file, "data.features=here.npz") == str(places / "here.npz")
    assert features_of(kind, file, "data.features=~/x.npz") == str(places / "home" / "x.npz")
    assert features_of(kind, file, "data={features='here.npz'}") == str(places / "here.npz")
    assert features_of(kind, file, "data.features=demo") == "demo"
    assert features_of(kind, file, "data.features=/x.npz") == "/x.npz"
    assert features_of(kind, "smoke") == "demo"
    assert features_of(kind, "smoke", "data.features=here.npz") == str(places / "here.npz")


def test_the_same_rule_holds_for_audits_and_statistics(places):
    (places / "sub" / "r.toml").write_text(
        EXPERIMENT + '[train]\nnormalize = "standardize"\nstatistics = "~/s.npz"\n'
    )
    assert load_config("sub/r.toml").train.statistics == str(places / "home" / "s.npz")
    assert load_sweep("sub/r.toml").recipes[0].statistics == str(places / "home" / "s.npz")
    audit = load_audit("sub/a.toml")
    assert (audit.data.features, audit.data.members) == (str(places / "sub" / "features.npz"), "")
    assert audit.head.file == str(places / "sub" / "head.safetensors")
    audit = load_audit("sub/a.toml", ("head.file=h.npz", "data.members=~/m.npz"))
    assert audit.head.file == str(places / "h.npz")
    assert audit.data.members == str(places / "home" / "m.npz")


def test_the_home_folder_is_found_where_the_shell_leaves_it(capsys, places):
    code, _, err = jaxmia(capsys, "triage", "--top=1", "~/x.npz")
    assert code == 2
    assert repr(str(places / "home" / "x.npz")) in err
    code, _, err = jaxmia(capsys, "triage", "x.npz", "--out=~/none/x.csv")
    assert repr(str(places / "home" / "none" / "x.csv")) in err


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_output_never_fails_for_its_encoding(encoding):
    script = (
        "import sys; from jaxmia.cli import main; import jaxmia._text as t; t.show_in_any_encoding();"
        " print('\\u03b5 \\u2265 \\u2192 caf\\udce9 \\u4e2d'); print('\\u03b4', file=sys.stderr);"
        " sys.argv = ['jaxmia', '--help']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"epsilon >= -> caf? ?")
    assert done.stderr.decode(encoding).split() == ["delta"]
    assert b"predict" in done.stdout


def test_bytes_and_halves_of_pairs_are_escaped():
    assert printable(b"caf\xc3\xa9 \xff") == "café \\xff"
    assert printable("\udce9\ud800") == "\\udce9\\ud800"
    assert printable("caf\udce9") == "caf\\xe9"
    assert printable(1.0) == "1.0"


@pytest.mark.parametrize(
    "name", ["seeds-0", "[/b] a cell of a name so long that it does not fit on the line at all"]
)
@pytest.mark.parametrize("of", ["heads", "items"])
def test_the_progress_line_has_its_words_whole_at_80_columns(of, name):
    file = io.StringIO()
    console = rich.console.Console(file=file, width=80, force_terminal=True, color_system=None)
    if of == "heads":
        with progress.grid_progress(console, 100.0) as bar:
            bar.cell(name)
            bar.heads(1234, 40.0)
    else:
        with progress.item_progress(console, name, 1_281_167) as advance:
            advance(512_466)
    last = [line for line in file.getvalue().replace("\r", "\n").split("\n") if f"{of}/s" in line][-1]
    assert name[:20] in last
    assert {"heads": "40%", "items": "512466/1281167"}[of] in last
    assert last.rstrip().endswith("left")
    assert len(last) <= 90  # with codes that clear the line


def test_a_delta_above_one_over_n_is_said(capsys):
    words = ["dp", "--epsilon", "1", "--shots", "8", "--classes", "2", "--steps", "2"]
    code, out, _ = jaxmia(capsys, *words, "--delta", "0.1", columns=300)
    assert code == 0
    assert "delta=0.1 is above 1/n = 1/16" in out
    assert "is above 1/n" not in jaxmia(capsys, *words, "--delta", "1e-5", columns=300)[1]


@pytest.mark.parametrize("delta", [0.1, 1e-5])
def test_a_run_says_that_its_delta_is_above_one_over_n(delta):
    from jaxmia.studies.tuning import privacy_notes

    settings = [f"privacy.delta={delta}", "privacy.epsilon=[inf,1]"]
    assert [("above 1/n" in line) for line in privacy_notes(load_config("smoke", settings))] == [True] * (
        delta > 0.01
    )
    assert not privacy_notes(load_config("smoke", settings[:1]))
