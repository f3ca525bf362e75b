"""Genuine llama.cpp servers on a tiny model of our own: real engines, ready in a second, for `shunter up` and for tests."""

__all__ = ["INSTALL_HINT"]

# What to do when importing `gguf` or `xllamacpp` fails: they come with an optional extra.
INSTALL_HINT = "pip install 'shunter-stack[llamacpp]', or `make engines` in a checkout"
