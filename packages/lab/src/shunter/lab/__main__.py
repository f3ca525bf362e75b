"""`python -m shunter.lab`: the same as the command `shunter-lab`."""

from shunter.lab.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="shunter-lab")
