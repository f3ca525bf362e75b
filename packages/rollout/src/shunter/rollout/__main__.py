"""``python -m shunter.rollout``: the same as ``shunter rollout``."""

from shunter.rollout.cli import main

__all__: list[str] = []

main(prog_name="python -m shunter.rollout")
