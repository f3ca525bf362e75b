"""Diagnosis drills: ``python -m hack.drills [WORD …]`` does some or all, and writes docs/diagnosis.md of what was shown."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec
from hack.drills.drills import DRILLS, Drill, Told
from hack.drills.scene import running_scene
from hack.observability.prometheus import Missing

__all__ = ["main", "run"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "diagnosis.md"
SHOWN = ROOT / "build" / "drills.json"  # by the last run of each drill

HEAD = """\
# What is wrong? Seven drills

Seven things that go wrong, each done to a real stack under load (Envoy, picker, scraper, three model servers, a Prometheus
with [our rules](runbook.md)), and what then said so. `make drills` does all of them and writes this page: what is in it was
shown. Alerts wait a sixtieth of their time in a drill, and eight seconds of the scraper's silence are enough.

Three questions find most causes. **What does the page say?** `http://ADMIN/` begins with the gravest finding, in a sentence.
**Which alert fires?** Its summary names the thing, its section of the runbook says what to do. **Where was one slow request
meanwhile?** `shunter explain --trace REQUEST_ID`: in the picker (`shunter.queue`), in the model server (`llm_request`), or
between.

| symptom | the sentence |
|---|---|
"""


def run(drills: Sequence[Drill]) -> Iterator[tuple[Drill, Told]]:
    """Do them, those of one configuration on one stack; raises Missing if there is no Prometheus."""
    for config, some in groupby(sorted(drills, key=lambda drill: drill.config), key=lambda drill: drill.config):
        with tempfile.TemporaryDirectory(prefix="shunter-drills-") as directory:
            options: list[str] = []
            if config:
                path = Path(directory) / "config.yaml"
                path.write_text(config)
                options = ["--config", str(path)]
            with running_scene(*options) as scene:
                for drill in some:
                    yield drill, drill.run(scene)


def write(told: dict[str, Told]) -> str:
    page = [HEAD]
    page += [f"| [{drill.symptom}](#{anchor(drill)}) | {told[drill.name].sentence} |\n" for drill in DRILLS]
    for drill in DRILLS:
        shown, alert = told[drill.name], drill.alert
        page.append(f"\n## {drill.name}\n\n{drill.symptom}\n\n**Done** {drill.done}\n\n**Page** {shown.sentence}\n\n")
        page.append(f"**Alert** [{alert}](runbook.md#{alert.lower()}): {shown.alert}\n\n")
        page.append(f"**See** {drill.look}\n")
        page += ["\n```console\n" + "\n".join(block) + "\n```\n" for block in (shown.figures, shown.shown) if block]
    return "".join(page)


def anchor(drill: Drill) -> str:
    return drill.name.lower().replace(" ", "-")


def main(words: Sequence[str]) -> int:
    chosen = [drill for drill in DRILLS if not words or any(word.lower() in drill.name.lower() for word in words)]
    told = msgspec.json.decode(SHOWN.read_bytes(), type=dict[str, Told]) if SHOWN.exists() else {}
    SHOWN.parent.mkdir(parents=True, exist_ok=True)
    try:
        for drill, shown in run(chosen):
            told[drill.name] = shown
            SHOWN.write_bytes(msgspec.json.encode(told))
            print(f"{drill.name}: {shown.sentence}\n  {drill.alert}: {shown.alert}", flush=True)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    if told.keys() == {drill.name for drill in DRILLS}:
        PAGE.write_text(write(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
