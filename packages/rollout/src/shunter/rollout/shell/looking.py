"""What can be seen of a rollout at one moment, from its pickers and from where its weights are."""

from collections.abc import Awaitable
from typing import TypeVar

import aiohttp

from shunter.rollout.core.machine import Seen
from shunter.rollout.core.sight import holders, others
from shunter.rollout.core.spec import Rollout
from shunter.rollout.errors import ServerError
from shunter.rollout.shell.pickers import Pickers, read_tally
from shunter.rollout.shell.traffic import Traffic

__all__ = ["Outlook"]

Answer = TypeVar("Answer")


class Outlook:
    """Looks at a rollout; ``trouble`` says who did not answer the last time."""

    def __init__(self, rollout: Rollout, session: aiohttp.ClientSession, traffic: Traffic) -> None:
        self.trouble = ""
        self._rollout = rollout
        self._traffic = traffic
        sides = (rollout.to, rollout.from_)
        self._pickers = {urls: Pickers(session, urls) for urls in map(rollout.pickers_of, sides)}

    async def look(self) -> Seen:
        """Return what is seen now; raises ConfigError if there is no place for weights where there should be one."""
        rollout, self.trouble = self._rollout, ""
        glances = {urls: await self._try(pickers.look()) for urls, pickers in self._pickers.items()}
        to, from_ = (glances[rollout.pickers_of(side)] for side in (rollout.to, rollout.from_))
        new = read_tally(to.metrics, rollout.to.model) if to else None
        old = read_tally(from_.metrics, rollout.from_.model) if from_ else None
        return Seen(
            to=holders(to.pages, rollout, rollout.to) if to else None,
            from_=holders(from_.pages, rollout, rollout.from_) if from_ else None,
            share=await self._try(self._traffic.share(to.pages if to else ())),
            others=others(to.pages, rollout) if to and not rollout.traffic.http_route else (),
            new=new.counts if new else None,
            old=old.counts if old else None,
            running_to=new.running if new else None,
            running_from=old.running if old else None,
        )

    async def _try(self, doing: Awaitable[Answer]) -> Answer | None:
        try:
            return await doing
        except ServerError as error:
            self.trouble = str(error)
            return None
