"""The pages: their code runs and prints what they show; their commands, names and links lead somewhere."""

import contextlib
import io
import re
import shlex
import warnings

import pytest
from docs_reading import DOCS, ROOT, blocks, difference, near, pages
from rooms import exists

from causalnet.cli.main import app, main
from causalnet.effects.statistics import FewPromptsWarning

PAGES = {path.relative_to(ROOT).as_posix(): path for path in pages() if path.exists()}
PYTHON = {name: [one for one in blocks(path) if one.language == "python"] for name, path in PAGES.items()}
SHELL = [one for path in PAGES.values() for one in blocks(path) if one.language in ("console", "sh", "bash")]
NOT_RUN = [one for some in PYTHON.values() for one in some if one.not_run]


def commands(block):
    """Return the ``causalnet …`` lines of a shell block, as lists of words."""
    joined = block.text.replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("causalnet ")]


@pytest.mark.parametrize("name", [name for name, some in PYTHON.items() if any(not one.not_run for one in some)])
def test_the_code_of_a_page_runs_and_prints_what_it_shows(name, readers_folder):
    if "runs/hydra" in PAGES[name].read_text(encoding="utf-8"):
        with pytest.raises(SystemExit):
            main(["hydra", "--model", "path/to/checkpoint", "--prompts", "prompts.jsonl", "--donors", "3", "--quiet",
                  "--out", "runs/hydra"])  # fmt: skip
    space = {"__name__": "__main__"}
    for block in PYTHON[name]:
        if block.not_run:
            continue
        printed = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore", FewPromptsWarning)
            code = compile("\n" * block.line + block.text, name, "exec")
            exec(code, space)
        if block.shown is not None:
            assert not (wrong := difference(block.shown, printed.getvalue())), f"{block}: {wrong}"
    import matplotlib.pyplot as plt

    plt.close("all")


def test_few_blocks_are_not_run_and_each_says_why():
    assert len(NOT_RUN) <= 8, [str(one) for one in NOT_RUN]
    assert all(len(one.not_run) > 10 for one in NOT_RUN)
    for one in NOT_RUN:
        compile(one.text, str(one), "exec")


def test_every_block_says_what_it_is():
    for name, path in PAGES.items():
        fences = re.findall(r"^ *(```+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        opened = [info for number, (_, info) in enumerate(fences) if number % 2 == 0 and "{" not in info]
        assert all(info.strip() for info in opened), f"{name}: a fence without a language"


@pytest.mark.parametrize("block", [one for one in SHELL if commands(one)], ids=str)
def test_commands_are_understood(block):
    import typer

    group = typer.main.get_command(app)
    for words in commands(block):
        command, rest = group, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert command is not group, f"{block}: causalnet {words[0]}"
        if "--help" not in words:
            command.make_context(words[0], rest)


@pytest.mark.parametrize("block", [one for one in SHELL if one.shown and commands(one)], ids=str)
def test_commands_print_what_the_page_shows(block, readers_folder, capsys):
    for words in commands(block):
        with pytest.raises(SystemExit):
            main(words)
    assert not (wrong := difference(block.shown, capsys.readouterr().out)), f"{block}: {wrong}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name, path in PAGES.items():
        named = set(re.findall(r"(?:^|[`$] ?)make ([a-z][\w-]*)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, f"{name}: make {named - targets}"


def test_options_named_in_prose_exist():
    import typer

    group = typer.main.get_command(app)
    every = [child for one in group.commands.values() for child in (one, *getattr(one, "commands", {}).values())]
    known = {flag for command in every for one in command.params for flag in one.opts} | {"--help"}
    for name, path in PAGES.items():
        named = set(re.findall(r"`(?:causalnet [^`]*?)?(--[a-z][a-z-]*)", path.read_text(encoding="utf-8")))
        assert named <= known, f"{name}: {named - known}"


def test_names_in_prose_exist():
    for name, path in PAGES.items():
        named = set(re.findall(r"`(causalnet(?:\.\w+)+)(?:\([^`]*\))?`", path.read_text(encoding="utf-8")))
        wrong = [one for one in named if not exists(one) and not (ROOT / one).exists()]
        assert not wrong, f"{name}: {wrong}"


@pytest.mark.parametrize("name", list(PAGES))
def test_links_lead_somewhere(name):
    path = PAGES[name]
    prose = re.sub(r"^(`{3,}).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if not re.match(r"https?://", target):
            # A build copies the tutorials beside the pages; the copies are those of tutorials/.
            place = re.sub(r"(^|.*/)tutorials/(?=\d_)", f"{ROOT}/tutorials/", target)
            assert (path.parent / place).exists() or "_generated/" in target, f"{name}: {target}"


def test_a_wrong_output_would_be_seen():
    assert not difference("value 1.23 of 60\n… done", "value  1.24 of 60\nanything done\n")
    assert not difference("a\n…\nb 2", "a\nx\ny\nb 2\n")
    assert difference("a\n…\nb 2", "a\nx\ny\n")
    assert difference("a", "a\nb")
    assert difference("value 1.23", "value 1.33")
    assert difference("60 prompts", "61 prompts")
    assert difference("a b", "a c")
    assert near("2.8e-05", "3.1e-05")
    assert not near("2.8e-05", "3.1e-02")


def test_every_page_is_on_the_path_of_the_docs():
    assert DOCS / "index.md" in PAGES.values()
