"""As the package."""

from sgl_kernel import __getattr__  # noqa: F401 – every name of this module too
