"""Named defects: each makes a server wrong in exactly one way, so that whoever judges servers can be seen to notice.

A fault is a value with a few seams, and the server applies the seams of the faults it was given:

* `refuse` answers a path with an empty error, knowing for how many seconds the server has listened;
* `ask` changes the JSON object of a completion or chat request before it is read;
* `reply` changes a whole answer (status, body) on its way out;
* `event` changes one server-sent event of a stream; an empty one is not sent;
* `stall_s` makes the answers of a path late, `late_s` the n-th metrics page;
* `stale_s` shows each metrics page for so long, whatever has happened since;
* `drag` is the share of its speed that the engine keeps while somebody scrapes;
* `deaf` lets what the engine has go on though its client has hung up: streams, whole answers, or what waits;
* `model` says which model answers, knowing the one that was asked for, the adapters that are loaded and those in use;
* `batch` changes the n-th event of KV events, `number` the number under which a message of them is published, and `repeat` what
  a replay says instead of a message, if anything;
* `rank` says which data-parallel rank serves a request that is pinned to one, of so many;
* `hang` says which requests are never answered;
* `hits` in the prefix cache take as `late` as if there were none, or are `shared` by all adapters;
* `leak` loses blocks of the cache whenever a client hangs up;
* `event_s` makes each event of a stream late;
* `mixes` lets a stream that is not alone say what another one says;
* `probe` makes the health path of a ready server do what it should not: it dawdles, generates, or waits until nothing runs;
* `crowd` answers what is too much with a status: from so many requests at once, with which, so many seconds late;
* `threads` are those that there are for requests: when all are taken, the metrics page waits until one is free;
* `wire` breaks the connection: `reset` answers nothing, `cut` ends a stream in its middle, `hoard` keeps it back until it is
  complete, `close` ends each connection after one answer, `drip` sends byte by byte, and at a
  `crash` the whole process ends with the next request;
* `end` ends the server wrongly: it is `ready` while it drains, `cut`s off what runs, answers what is new with an `error`,
  `linger`s for ever, or feels `unhurt` when its engine has died.

`FAULTS` lists them all, in the order of the model-server protocol's sections.
"""

import difflib
from collections.abc import Iterable, Mapping

from shunter.lab.errors import ParamsError
from shunter.lab.faults import (
    adapters,
    cache,
    cancellation,
    disaggregation,
    draining,
    errors,
    kvevents,
    load,
    metrics,
    openai,
    operation,
    prefix,
    ranks,
    reachability,
    requests,
    robustness,
    sampling,
    scraping,
    streaming,
)
from shunter.lab.faults.seams import Fault, Reply

__all__ = ["FAULTS", "Fault", "Reply", "faults_named"]

SECTIONS = (
    reachability,
    openai,
    sampling,
    streaming,
    requests,
    errors,
    metrics,
    load,
    scraping,
    cache,
    cancellation,
    robustness,
    adapters,
    prefix,
    kvevents,
    disaggregation,
    ranks,
    operation,
    draining,
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for section in SECTIONS for fault in section.FAULTS}


def faults_named(names: Iterable[str]) -> tuple[Fault, ...]:
    """The faults of these names; an unknown one is answered with near matches."""
    found: list[Fault] = []
    for name in names:
        fault = FAULTS.get(name)
        if fault is None:
            near = difflib.get_close_matches(name, FAULTS, n=3)
            raise ParamsError(
                f"fault {name!r} does not exist; " + (f"near: {', '.join(near)}" if near else "`shunter lab faults` lists them")
            )
        found.append(fault)
    return tuple(found)
