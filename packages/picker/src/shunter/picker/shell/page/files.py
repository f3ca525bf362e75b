"""The page's own files: read once, served as they are, under a policy that lets nothing else in.

The policy is what stands between a hostile model name and the reader's browser if the page's code ever forgot to treat it as
text: no script but ours, no inline one, no address but this picker, and no string may become markup (Trusted Types).
"""

from importlib import resources
from pathlib import PurePath

from aiohttp import web

__all__ = ["HEADERS", "Files"]

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # another release of the picker has other files
}


class Files:
    """Answers for ``/`` and what the page asks for beside it."""

    def __init__(self) -> None:
        """Read them."""
        assets = resources.files("shunter.picker.shell.page") / "assets"
        self._files = {each.name: each.read_bytes() for each in assets.iterdir() if PurePath(each.name).suffix in KINDS}

    def routes(self) -> list[web.RouteDef]:
        """Return where they are."""
        return [web.get("/", self._first), web.get("/page/{name}", self._other)]

    async def _first(self, _: web.Request) -> web.Response:
        return self._file("index.html")

    async def _other(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type=KINDS[PurePath(name).suffix], charset="utf-8", headers=HEADERS)
