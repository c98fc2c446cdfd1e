"""The command line as scripts and people meet it: help that fits, JSON that can be read, exit codes that mean it."""

import json
import os
import subprocess
import sys

import pytest
import typer
from PIL import Image

from trainer import __main__ as command_line
from trainer import presets
from trainer.cli import app
from trainer.cli.comparing import parse_numbers
from trainer.errors import UserError
from trainer.run import Progress, Run


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """What lora-studio prints for these arguments, in an empty folder; raises SystemExit for an exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["lora-studio", *map(str, arguments)])
        command_line.main()
        return capsys.readouterr().out

    return call


def verbs(group=None, path=()):
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        yield (*path, name), command
        yield from verbs(command, (*path, name)) if hasattr(command, "commands") else ()


@pytest.mark.parametrize(("path", "command"), verbs(), ids=lambda one: "-".join(one) if isinstance(one, tuple) else "")
def test_every_verb_and_option_is_explained_in_80_columns(path, command, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = call(*path, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert command.help and all(option.help for option in command.params if not option.hidden)
    assert "--no-" not in text  # a switch is named one way, the same for every verb


def test_status_tells_scripts_where_runs_stand_and_what_they_have_saved(call, tmp_path):
    assert json.loads(call("status", "--json")) == []
    run = Run.create(presets.layer({"name": "moss"}))
    run.write_status("stopped", "at step 3", Progress(step=3))
    run.epoch_path(1).write_bytes(b"x")
    (told,) = json.loads(call("status", "--json"))
    assert (told["name"], told["state"], told["progress"]["step"]) == (run.name, "stopped", 3)
    assert told["epochs"] == [{"number": 1, "file": str(run.epoch_path(1))}]
    assert json.loads(call("status", run.name, "--json")) == [told]


def test_what_cannot_be_done_is_no_success(call):
    run = Run.create(presets.layer({"name": "moss"}))
    for arguments in (["sample", run.path], ["settings", "nosuch"], ["ui", "--port", "99999"]):
        with pytest.raises(SystemExit) as exit:
            call(*arguments)
        assert exit.value.code == 2
    assert "not running" in call("stop", run.path)  # what was asked for is so


def test_a_setting_is_found_by_a_part_of_its_name_or_kohyas(call):
    assert "adapter.rank" in call("settings", "rank") and "adapter.rank" in call("settings", "network_dim")


@pytest.mark.parametrize("text", ["5-3", "²", "1,,2", "-1", "1-"])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="--against-epochs"):
        parse_numbers(text, "--against-epochs")


def test_output_in_a_file_is_utf8_in_every_locale_and_a_path_stays_one_line(tmp_path):
    folder = tmp_path / ("long " * 25).strip()
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "1.png")
    (folder / "1.txt").write_text("苔, größe", encoding="utf-8")
    latin = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    latin.pop("PYTHONIOENCODING", None)

    def out(*arguments: str) -> str:
        command = [sys.executable, "-m", "trainer", "dataset", *arguments]
        return subprocess.run(command, env=latin, capture_output=True, check=True).stdout.decode("utf-8")

    assert json.loads(out("tags", str(folder), "--json"))["tags"] == {"苔": 1, "größe": 1}
    assert str(folder) in out("convert", str(folder), "--to", "kohya")
