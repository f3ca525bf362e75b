"""A directory of files that a running Envoy watches, brought from one whole state to the next."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.envoy.dynamic import Division
from shunter.envoyconf.core.forms import as_files
from shunter.envoyconf.core.output import Artefact, Output
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.xds.files import division_output, is_ours, member_artefact, stages
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.core.xds.report import Report, describe_trouble
from shunter.envoyconf.shell.texts import read_texts, write_texts

__all__ = ["Directory"]

# Nobody tells when Envoy has taken up a file. It does so within milliseconds; a new cluster then asks DNS, and its health
# checks take two seconds.
SETTLE_S = 3.0


class Directory:
    """The files, and how to replace them under a running Envoy."""

    def __init__(self, place: Path) -> None:
        """Take a directory that need not exist; Envoy must find it under this path. Raises IntentError if it cannot be read."""
        self.place = place.resolve()
        self.trouble: dict[str, str] = {}
        texts = read_texts([str(path) for path in sorted(self.place.glob("*.yaml")) if is_ours(path.stem)])
        self._there: dict[str, Resource] = {
            Path(name).stem: document.body for name, text in texts.items() for document in load_documents(text, name)
        }

    def report(self) -> Report:
        """Return what there is to tell: of Envoys nothing, for they do not say."""
        return Report(trouble=describe_trouble(self.trouble))

    async def replace(self, division: Division) -> None:
        """Bring the directory to this state; raise IntentError if it cannot be written."""
        await self.update(division_output(division, str(self.place)))

    async def move(self, members: Mapping[str, Sequence[Member]]) -> None:
        """Replace endpoints; in JSON, which is YAML too, and for a thousand takes 2 ms instead of half a second."""
        moved = {artefact.name: artefact.documents[0] for artefact in map(member_artefact, members.keys(), members.values())}
        write_texts(self.place, {f"{stem}.yaml": msgspec.json.encode(document).decode() for stem, document in moved.items()})
        self._there |= moved

    async def update(self, output: Output) -> None:
        """Bring the directory to the state that these files are; take away those of former ones.

        What is for others than Envoy, such as rewrites for pickers, is written at once and never taken away.
        """
        others = Output(tuple(artefact for artefact in output.artefacts if not is_ours(artefact.name)))
        write_texts(self.place, as_files(others))
        new = {artefact.name: artefact.documents[0] for artefact in output.artefacts if is_ours(artefact.name)}
        for stage in stages(dict(self._there), new):
            if stage.wait:
                await asyncio.sleep(SETTLE_S)
            self._write(Output(tuple(Artefact(stem, (document,)) for stem, document in stage.written.items())))
            for stem in stage.removed:
                (self.place / f"{stem}.yaml").unlink(missing_ok=True)
                del self._there[stem]

    def _write(self, output: Output) -> None:
        write_texts(self.place, as_files(output))
        self._there |= {artefact.name: artefact.documents[0] for artefact in output.artefacts}
