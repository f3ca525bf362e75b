"""The admin call: which faults a server has is asked and changed while it runs, whatever it is broken by."""

from typing import Any

import msgspec
from aiohttp import web

from shunter.lab.errors import ParamsError
from shunter.lab.faults import Fault
from shunter.lab.faults.dials import read_faults
from shunter.lab.shell.defects import Defects
from shunter.lab.shell.wire import json_response

__all__ = ["ADMIN", "Administration"]

ADMIN = "/admin/"


class Administration:
    """`GET /admin/faults` and `PUT /admin/faults`, of a JSON list of faults: their names, or objects with parameters.

    What is wrong with a list is answered with 400 and `{"error"}`; the faults are then what they were.
    """

    def __init__(self, defects: Defects) -> None:
        self._defects = defects

    def routes(self) -> list[web.RouteDef]:
        """Which handler answers which path."""
        return [web.get(f"{ADMIN}faults", self._tell, allow_head=False), web.put(f"{ADMIN}faults", self._change)]

    async def _tell(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode([_asked(fault) for fault in self._defects.faults]))

    async def _change(self, request: web.Request) -> web.Response:
        try:
            self._defects.faults = read_faults(await request.read())
        except ParamsError as error:
            return json_response(msgspec.json.encode({"error": str(error)}), 400)
        return await self._tell(request)


def _asked(fault: Fault) -> str | dict[str, Any]:
    """A fault as it was asked for."""
    return {"name": fault.name, **fault.params} if fault.params else fault.name
