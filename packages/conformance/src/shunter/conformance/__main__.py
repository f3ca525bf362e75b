"""`python -m shunter.conformance`: the same as the command `shunter-conformance`."""

from shunter.conformance.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="shunter-conformance")
