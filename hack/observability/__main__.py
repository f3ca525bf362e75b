"""Write deploy/observability from the code, rules and dashboards, and docs/dashboards.md, which says what each panel tells.

``--check`` writes nothing and fails if a file is not what the code says.
"""

import json
import sys
from pathlib import Path

from click.testing import CliRunner
from hack.observability.grafana import Dashboard, read_dashboards, render

from shunter.picker.cli import main as picker

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "observability"
PAGE = ROOT / "docs" / "dashboards.md"
TEXT = Path(__file__).with_name("dashboards.md").read_text()


def files() -> dict[Path, str]:
    """Return everything by path."""
    dashboards = read_dashboards()
    made = {
        DEPLOY / "rules.yaml": CliRunner().invoke(picker, ["rules"], catch_exceptions=False).stdout,
        PAGE: TEXT + "".join(describe(name, dashboard) for name, dashboard in dashboards.items()),
    }
    for name, dashboard in dashboards.items():
        made[DEPLOY / "dashboards" / f"{name}.json"] = json.dumps(render(name, dashboard), indent=2, ensure_ascii=False) + "\n"
    return made


def describe(name: str, dashboard: Dashboard) -> str:
    """Return a dashboard's section of the page."""
    text = f"\n## {dashboard.title.removeprefix('Shunter: ').capitalize()}\n\n{dashboard.about}"
    text += f" [`{name}.json`](../deploy/observability/dashboards/{name}.json)\n\n"
    text += "| | panel | what it tells | empty if |\n|---|---|---|---|\n"
    for row in dashboard.rows:
        heading = row.title
        for panel in row.panels:
            text += f"| {heading} | {panel.title} | {panel.about} | {panel.sparse} |\n"
            heading = ""
    return text


def main() -> None:
    """Write them, or compare."""
    made = files()
    if "--check" in sys.argv:
        stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
        stale += [path for path in DEPLOY.rglob("*.*") if path not in made and path.suffix in {".json", ".yaml"}]
        if stale:
            sys.exit(f"not what the code says: {', '.join(str(path.relative_to(ROOT)) for path in stale)}; run: make docs")
        return
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
