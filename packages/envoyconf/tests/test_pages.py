"""What the pages about the command show is what happens: their files are written, their commands run in order."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.envoyconf.cli import main
from shunter.envoyconf.shell import envoy

PAGES = Path(__file__).parents[3] / "docs" / "gateway"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:\w+=\S+ )*)shunter envoyconf ([^\n]*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.mark.envoy
@pytest.mark.parametrize("name", ["command.md", "import.md", "lint.md", "migrate.md", "routing.md", "validate.md"])
def test_the_page_shows_what_is_printed(name, envoy_binary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("intent.yaml").write_text(CliRunner().invoke(main, ["init"]).stdout)
    count = 0
    for language, text in BLOCK.findall((PAGES / name).read_text()):
        if language == "yaml" and (file := re.match(r"# (\S+\.yaml)\n", text)):
            Path(file[1]).write_text(text)
        for variables, line, printed in COMMAND.findall(text) if language == "console" else ():
            command, _, into = line.partition(" > ")
            environment = dict(each.split("=") for each in variables.split())
            result = CliRunner().invoke(main, command.split(), env=environment)
            if into:
                Path(into).write_text(result.stdout)
            shown = result.stderr if into else result.output
            assert shown.replace(str(envoy_binary), f"~/.cache/shunter/tools/envoy/{envoy.VERSION}/envoy") == printed
            count += 1
    assert count
