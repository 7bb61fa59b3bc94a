"""What README and docs show runs as printed, the pretrained model replaced by a tiny one."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

sybil = pytest.importorskip("sybil")
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from transformers import AutoModelForSequenceClassification

import hf_sls
import hf_sls.optim

from .conftest import classification_rows, tiny_bert, write_language_model
from .glue import SCRIPTS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("[!_]*/**/*.md"))]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "docs").glob("[!_]*/**/*.ipynb"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, parser: Any) -> tuple[Any, list[Any]]:
    document = sybil.Sybil(parsers=[parser]).parse(page)
    return document, list(document.examples())


@pytest.fixture
def as_a_user(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained

    def from_pretrained(name: str, **settings: Any) -> Any:
        return stock(name, **settings) if Path(name).is_dir() else tiny_bert(**settings)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", from_pretrained)
    write_language_model(tmp_path / "Qwen" / "Qwen3-0.6B")
    (tmp_path / "distilbert-base-uncased").symlink_to(model_dir)
    with patch.dict(os.environ, {"ACCELERATE_USE_CPU": "true"}):
        yield


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_blocks_run(page: Path) -> None:
    document, examples = blocks(page, PythonCodeBlockParser())
    document.namespace["train_dataset"] = classification_rows()
    for example in examples:
        example.evaluate()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(notebook: Path) -> None:
    """Every cell but the one that installs; a picture is drawn."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell.startswith("%")] == code[:1]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    namespace: dict[str, Any] = {}
    for cell in code[1:]:
        exec(cell, namespace)
    assert list(Path().glob("*.png"))


def before(diff: str) -> str:
    return re.sub(r"^[ -]", "", re.sub(r"^\+.*\n?", "", diff, flags=re.MULTILINE), flags=re.MULTILINE)


def after(diff: str) -> str:
    return re.sub(r"^[ +]", "", re.sub(r"^-.*\n?", "", diff, flags=re.MULTILINE), flags=re.MULTILINE)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("side", [before, after])
@pytest.mark.parametrize("page", [page for page in PAGES if "```diff" in page.read_text()], ids=lambda page: page.name)
def test_both_sides_of_a_migration_run(page: Path, side: Any) -> None:
    pytest.importorskip("prodigyopt")
    pytest.importorskip("schedulefree")
    _, examples = blocks(page, CodeBlockParser("diff", PythonEvaluator()))
    for example in examples:
        exec(side(example.parsed), {"train_dataset": classification_rows()})


def program_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the script or module of this project that a shell command runs, and its arguments."""
    for index, word in enumerate(words):
        if word.startswith("glue_scripts/") or (word.startswith("hf_sls") and words[index - 1] == "-m"):
            return word, words[index + 1 :]
    return ("hf_sls", words[1:]) if words[0] == "hf-sls" else None


@cache
def help_of(program: str, *subcommand: str) -> str:
    """Return what `--help` prints."""
    printed = io.StringIO()
    with patch.object(sys, "argv", [program, *subcommand, "--help"]), redirect_stdout(printed), suppress(SystemExit):
        if program.endswith(".py"):
            runpy.run_path(str(SCRIPTS / Path(program).name), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    return printed.getvalue()


def shell_commands(page: Path) -> list[list[str]]:
    _, examples = blocks(page, CodeBlockParser("bash", PythonEvaluator()))
    lines = "\n".join(example.parsed for example in examples).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("&&")]
    return [words for words in (shlex.split(part, comments=True) for part in parts) if words]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_of_shell_commands_exist(page: Path) -> None:
    for program, arguments in filter(None, map(program_of, shell_commands(page))):
        usage = help_of(program, *(word for word in arguments[:1] if program == "hf_sls" and word[0] != "-"))
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", usage), f"{program} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_extras_that_are_installed_exist(page: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for words in shell_commands(page):
        if words[:2] == ["pip", "install"]:
            for extra in re.findall(r"\[(.*)\]", " ".join(words)):
                for name in extra.split(","):
                    assert re.search(rf"^{name} = \[", project, flags=re.MULTILINE), (words, name)


def test_every_file_names_the_version_of_the_package() -> None:
    named = {
        "CITATION.cff": r"^version: (\S+)$",
        "CHANGELOG.md": r"^## ([\d.]+) \(",
        "README.md": r"version += \{(.+)\}",
    }
    for name, pattern in named.items():
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found is not None, name
        assert found[1] == hf_sls.__version__, name


def test_the_reference_has_every_public_name() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    public = {name for module in (hf_sls, hf_sls.optim) for name in module.__all__} - {"OPTIMIZERS"}
    assert {name for name in public if not re.search(rf"\b{name}\b", reference)} == set()
