"""``python -m shunter.picker``: the command line without the umbrella."""

from shunter.picker.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="python -m shunter.picker")
