"""The reference: every public name is in it, every name in it is there, and each says what it is."""

import importlib
import inspect
import re

import pytest
from docs_reading import DOCS
from generated import command_help, commands
from rooms import entries, exists

ROOMS = (
    *("causalnet", "causalnet.graph", "causalnet.prompts", "causalnet.expr", "causalnet.effects", "causalnet.draw"),
    *("causalnet.testing", "causalnet.interop.dowhy", "causalnet.studies.hydra", "causalnet.demo", "causalnet.errors"),
    "causalnet.interop.ray",
)
_ROOM = re.compile(r"^```\{room\} (\S+)\n((?::\w+:.*\n)*)```", re.MULTILINE)


def documented():
    """Return (module, name) of every entry of the reference."""
    found = []
    for page in sorted((DOCS / "api").glob("*.md")):
        for path, options in _ROOM.findall(page.read_text(encoding="utf-8")):
            given = dict(re.findall(r"^:(\w+): *(.*)$", options, re.MULTILINE))
            assert set(given.get("without", "").split()) <= set(importlib.import_module(path).__all__), page.name
            found += [(path, name) for name in entries(path, given.get("only", ""), given.get("without", ""))]
    return found


ENTRIES = documented()


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_entry(room):
    module = importlib.import_module(room)
    there = {id(getattr(importlib.import_module(path), name)) for path, name in ENTRIES}
    assert not [name for name in module.__all__ if id(getattr(module, name)) not in there]


def test_every_entry_exists_once():
    assert all(exists(f"{path}.{name}") for path, name in ENTRIES)
    objects = [(name, id(getattr(importlib.import_module(path), name))) for path, name in ENTRIES]
    assert len(objects) == len(set(objects)), sorted(one for one in objects if objects.count(one) > 1)


def test_every_function_and_class_says_what_it_is():
    for path, name in ENTRIES:
        value = getattr(importlib.import_module(path), name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{path}.{name}"


def test_what_does_not_exist_is_told_apart():
    assert exists("causalnet.CausalModel.evaluate")
    assert exists("causalnet.effects.decompose.split")
    assert not exists("causalnet.CausalModel.evaluates")
    assert not exists("causalnet.effects.nothing")


def test_the_commands_page_has_every_command_and_option():
    import typer

    from causalnet.cli.main import app

    text = command_help()
    assert {"", "check", "do", "graph", "hydra"} <= set(commands())
    for name in commands():
        command = typer.main.get_command(app)
        for word in name.split():
            command = command.commands[word]
        (part,) = re.findall(
            rf"^## causalnet{' ' * bool(name)}{name}\n\n```text\n(.*?)```", text, re.MULTILINE | re.DOTALL
        )
        for option in command.params:
            shown = [flag for flag in option.opts if flag.startswith("--")]
            assert all(flag in part for flag in shown), f"causalnet {name}: {shown}"
