"""One fuzz target under atheris, as ``fuzz.py --engine atheris`` calls it: ``guided.py NAME DIRECTORY [-libFuzzer flag]…``."""

import logging
import sys

import atheris
import fuzz

with atheris.instrument_imports(include=["shunter"]):
    module = fuzz.load(sys.argv[1])

# Most inputs are wrong, and say so.
logging.disable(logging.CRITICAL)

atheris.Setup([sys.argv[0], *sys.argv[2:]], module.target)
atheris.Fuzz()
