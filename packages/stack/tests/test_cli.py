"""The umbrella knows every installed package and imports none before it is asked."""

import subprocess
import sys

from click.testing import CliRunner

from shunter.stack.cli import main


def test_help_lists_every_package():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("conformance", "envoyconf", "explain", "lab", "picker", "scraper", "top", "up"):
        assert f"\n  {command} " in result.output


def test_an_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["pikcer"])
    assert result.exit_code == 2
    assert "pikcer" in result.output


def test_help_imports_nothing_heavy():
    code = "import sys; from shunter.stack.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"aiohttp", "grpc", "numpy", "prometheus_client", "uvloop"}.intersection(loaded)
