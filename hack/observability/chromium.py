"""Debian's headless Chromium, driven by playwright, which never fetches a browser of its own here."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["HOW", "find_chromium", "running_chromium"]

HOW = "no Chromium: hack/observability/fetch-chromium puts Debian's into $SHUNTER_TOOLS_DIR"

# A user's browser confines its renderers; root in a container cannot, and what is shown here is our own.
ARGUMENTS = ("--no-sandbox",)


def find_chromium() -> Path | None:
    """Look in the tools directory, then on PATH."""
    fetched = tools_dir() / "bin" / "chromium"
    found = fetched if fetched.is_file() else shutil.which("chromium")
    return Path(found) if found else None


@asynccontextmanager
async def running_chromium(program: Path) -> AsyncGenerator[Browser]:
    """Run it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
