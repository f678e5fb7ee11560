"""Every command that the README and the docs show exists, with every option that they give it."""

import pathlib
import re
import shlex
import tomllib

import pytest
import typer

from jaxmia.cli.app import app

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted(
    page for page in ROOT.glob("docs/**/*.md") if not page.relative_to(ROOT / "docs").parts[0].startswith("_")
)
COMMANDS = typer.main.get_command(app)
REFUSED = typer.BadParameter.__mro__[2]  # ClickException, of click or of the click inside typer

INCOMPLETE = ("MissingParameter", "BadOptionUsage")  # a required argument, or that of an option, is missing


def blocks(text):
    """Lines of code blocks without a language or of sh, continued lines joined, comments left out."""
    for _, block in re.findall(r"^```(sh)?\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").split("\n"):
            yield line.partition(" #")[0].strip()


def inline(text):
    """Code between backticks, beyond code blocks, with line ends as spaces."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def parse(line, *, whole):
    """Parse a line as the command line does; without `whole` required arguments may be missing."""
    words = shlex.split(line)[1:]
    command = COMMANDS.commands[words[0]]
    arguments = [word for word in words[1:] if word != "--help"]
    try:
        command.make_context(words[0], arguments)
    except REFUSED as error:
        if whole or type(error).__name__ not in INCOMPLETE:
            raise


def commands(lines):
    return [line for line in lines if line.startswith("jaxmia ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_jaxmia_are_what_it_takes(page):
    text = page.read_text()
    for line in commands(blocks(text)):
        try:
            parse(line, whole=True)
        except REFUSED as error:
            pytest.fail(f"{line}: {error.format_message()}")
    for line in commands(inline(text)):
        if re.fullmatch(r"[a-z]+", line.split()[1]):
            try:
                parse(line, whole=False)
            except REFUSED as error:
                pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_have_the_options_that_pages_give_them(page):
    lines = [*blocks(page.read_text()), *inline(page.read_text())]
    for line in lines:
        found = re.search(r"python (benchmarks/\w+\.py)(.*)", line)
        if found:
            script = ROOT / found[1]
            assert script.is_file(), line
            source = script.read_text() + (ROOT / "benchmarks" / "_common.py").read_text()
            for option in re.findall(r"(?<= )--[a-z-]+", found[2]):
                assert f'"{option}"' in source, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_and_extras_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    said = re.findall(r"^make (\w+)", "\n".join(blocks(text)), re.M)
    said += [code.removeprefix("make ") for code in inline(text) if re.fullmatch(r"make \w+", code)]
    assert set(said) <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name for names in re.findall(r"jaxmia\[([\w,]+)\]", text) for name in names.split(",")}
    assert extras <= project["optional-dependencies"].keys()


def test_the_test_sees_commands():
    assert len(commands(blocks((ROOT / "docs" / "guide" / "laws.md").read_text()))) >= 10
    with pytest.raises(REFUSED):
        parse("jaxmia run demo --out runs/demo --no-such-option", whole=True)
    with pytest.raises(REFUSED):
        parse("jaxmia run --no-such-option", whole=False)
