"""``python -m shunter.scraper``: the same as ``shunter scraper``."""

from shunter.scraper.cli import main

__all__: list[str] = []

main(prog_name="python -m shunter.scraper")
