"""The process that the user starts: it keeps a worker at each post, answers for all of them, and touches no request.

::

    configuration valid → directory and ports claimed → admin pages → workers
    a worker dies        → the next one starts at once; what the dead one had in flight is struck out
    a worker is silent   → it is killed, and so on as above
    SIGHUP               → the new configuration is validated, then each worker relieved by one that has it
    SIGTERM or SIGINT    → not ready → all workers end well → exit 0; another one, later, ends them at once, exit 1
    SIGUSR2              → everybody logs at level debug, and at the next one as before
    SIGKILL              → the workers go on for some seconds; the next supervisor's relieve them
"""

import asyncio
import logging
import math
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from shunter.picker import config
from shunter.picker.config.base_models import LABEL, read_base_models
from shunter.picker.config.service_levels import read_service_levels
from shunter.picker.core.learned import Learned
from shunter.picker.core.overview import Overview, look
from shunter.picker.core.precedents import read
from shunter.picker.core.retrial import report, retry
from shunter.picker.core.service_levels import Level as ServiceLevel
from shunter.picker.core.shadow import Account, add_up
from shunter.picker.core.tables import Tally
from shunter.picker.errors import ConfigError, SilenceError, blaming
from shunter.picker.shell.admin import Admin
from shunter.picker.shell.claim import Ports, claim_directory
from shunter.picker.shell.collector import LearnedReader, collect
from shunter.picker.shell.collector import Settings as CollectorSettings
from shunter.picker.shell.control import Decided, Decisions, Recall, Recalled, Stacks, Traced
from shunter.picker.shell.layout import Settings, address, lay_out, lay_out_collector
from shunter.picker.shell.memory import Seat
from shunter.picker.shell.post import Post
from shunter.picker.shell.process import Child, spawn
from shunter.picker.shell.report import Trial, WorkerReport, report_on
from shunter.picker.shell.seating import Seating
from shunter.picker.shell.service import trace
from shunter.picker.shell.sharer import Settings as SharerSettings
from shunter.picker.shell.sharer import share
from shunter.picker.shell.silence import listen
from shunter.picker.shell.worker import Settings as WorkerSettings
from shunter.picker.shell.worker import work
from shunter.snapshot import SnapshotReader
from shunter.snapshot.stderr import Level, log_to_stderr

__all__ = ["Supervisor", "run"]

# What a page waits for a worker to answer: one that takes longer is shown as silent.
ANSWER_S = 1.0

# Between looks at the configuration file.
WATCH_S = 2.0

# Recorded decisions, of all workers together, on which a new configuration is tried; a reload waits for who is only busy.
TRIED = 1_000
TRIED_S = 3.0

# timeout(1) tells its child and then its whole group, and who wraps a command does so beside the terminal: two are one.
ECHO_S = 0.5

log = logging.getLogger(__name__)


class Supervisor:
    """Several workers as one picker."""

    def __init__(self, settings: Settings, read: Callable[[], str], read_levels: Callable[[], str] = str) -> None:
        """``read`` returns the text of the configuration, ``read_levels`` of the service levels; both may raise ConfigError."""
        self._settings = settings
        self._read = read
        self._read_levels = read_levels
        self._configuration: str = ""
        self._levels: str = ""
        self._level: Level = settings.log_level
        self._reader = SnapshotReader(settings.worker.snapshot)
        self._seating = Seating(settings.runtime, settings.workers)
        self._ports = Ports()
        self._posts: list[Post] = []
        self._collector: Post | None = None
        self._sharer: Post | None = None
        self._learned = LearnedReader(settings.runtime)
        self._tasks: list[asyncio.Task[None]] = []
        self._admin = Admin(self, settings.metric_names)
        self._reloads: dict[str, int] = {}  # by result, the last one's last
        self._wanted = asyncio.Event()  # a reload is
        self._trial: Trial | None = None
        self._hired: dict[int, tuple[str, str]] = {}  # with which configuration and levels, by life
        self._compared: str = ""  # with which configuration the second policy is: the one in force, also while another is tried
        self._shadowed: dict[str, Account] = {}  # what workers of a configuration had said of it who have ended since
        self._draining = False

    async def start(self) -> None:
        """Start everything; raise ConfigError if that cannot be. ``drain`` ends it in either case."""
        settings = self._settings
        self._configuration, self._levels = self._read_valid()
        self._compared = self._configuration
        await self._seating.open()
        self._make_posts()
        admin_port = await self._admin.start(settings.admin_host, settings.admin_port)
        where = ", ".join(dict.fromkeys(post.address for post in self._posts))
        log.info("ext_proc on %s, admin pages on port %d of %s", where, admin_port, settings.admin_host)
        self._tasks = [asyncio.create_task(post.man()) for post in self._everybody()]
        await self._see_them_serve()
        others = self._seating.relieve_orphans(), self._follow_wishes(), listen(self._reader)
        self._tasks += map(asyncio.create_task, others)
        if settings.watch_config:
            self._tasks.append(asyncio.create_task(self._watch_config()))

    async def watch(self) -> None:
        """Never return; raise what breaks the supervisor itself."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            await task

    def reload(self) -> None:
        """Read the configuration again, and relieve all workers by such as have it."""
        self._wanted.set()

    def log_level(self) -> Level:
        """Return what is logged at least."""
        return self._level

    def set_log_level(self, level: Level) -> None:
        """Let everybody log what is of this level at least, and who is yet to come too."""
        self._level = level
        logging.getLogger().setLevel(level.upper())
        for post in self._everybody():
            for child in post.children:
                child.speak(level)
        log.info("log level: %s", level)

    def toggle_debug(self) -> None:
        """Log everything, or as it was."""
        self.set_log_level("debug" if self._level != "debug" else self._settings.log_level)

    async def drain(self) -> None:
        """Let all workers end well, and stop."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*[post.close(self._settings.worker.drain_s) for post in self._posts])
        if self._collector is not None and self._settings.collector is not None:
            await self._collector.close(self._settings.collector.drain_s)
        if self._sharer is not None and self._settings.sharer is not None:
            await self._sharer.close(self._settings.sharer.drain_s)
        await self._admin.stop()
        self._ports.close()
        self._reader.close()
        self._learned.close()

    def kill(self) -> None:
        """End all children at once."""
        for post in self._everybody():
            for child in post.children:
                child.kill()

    # -- what the admin pages ask ------------------------------------------------------------------------------------

    def workers(self) -> list[WorkerReport]:
        """Report on each post."""
        return [report_on(post) for post in self._everybody()]

    def hindrances(self) -> list[str]:
        """Say why requests should not come here; a single ready worker will do."""
        if self._draining:
            return ["draining"]
        reports = [report_on(post) for post in self._posts]
        if any(report.ready for report in reports):
            return []
        return list(dict.fromkeys(words for report in reports for words in report.hindrances)) or ["starting"]

    def tally(self) -> Tally:
        """Add up what all seats counted."""
        return self._seating.tally()

    def overview(self) -> Overview:
        """Show the fleet and the account at this moment."""
        now_ns = time.monotonic_ns()
        view = self._reader.view(now_ns)
        told = [child.status for child in self._children(self._everybody()) if child.status]
        return look(
            view,
            self._reader.trouble,
            self.tally(),
            now_ns,
            pool=self._settings.worker.pool,
            complaints={name: words for status in told for name, words in status.complaints.items()},
            reports={name: words for status in reversed(told) for name, words in status.reports.items()},
        )

    def learned(self) -> Learned | None:
        """Return what the collector learnt."""
        return self._learned.read(time.monotonic_ns())

    def reloads(self) -> dict[str, int]:
        """Count reloads by result, the last one's last."""
        return dict(self._reloads)

    def pool(self) -> str:
        """Name what is served."""
        return self._settings.worker.pool or "default"

    def service_levels(self) -> Sequence[ServiceLevel]:
        """Return what is promised to whom."""
        return read_service_levels(self._levels)

    def configuration(self) -> str:
        """Return the configuration in force, with every default."""
        if self._settings.worker.role == "body-router":
            return self._configuration
        return config.effective(config.load(self._configuration))

    def _read_valid(self) -> tuple[str, str]:
        """Return the configuration and the service levels; raise ConfigError naming the file that cannot be used."""
        text, levels = self._read(), self._read_levels()
        with blaming(self._settings.config_file):
            text = self._validated(text)
        with blaming(self._settings.levels_file):
            read_service_levels(levels)
        return text, levels

    def _validated(self, text: str) -> str:
        if self._settings.worker.role == "body-router":
            if not read_base_models(text) and text.strip():
                log.warning("configuration: no ConfigMap in it has the label %s: true, so no base model is known", LABEL)
            return text
        plan = config.load(text)
        config.rehearse(plan)  # here it costs nobody anything
        for note in plan.notes:
            log.warning("configuration: %s", note)
        return text

    def trial(self) -> Trial | None:
        """Return what the last reload would have changed."""
        return self._trial

    def shadow(self) -> Account | None:
        """Return what came of the second policy, as the workers said last."""
        if self._settings.worker.shadow is None:
            return None
        living = [
            child.status.shadow
            for post in self._posts
            for child in post.children
            if child.status and child.status.shadow and self._hired[child.seat.life][0] == self._compared
        ]
        return add_up([self._shadowed.get(self._compared, Account()), *living])

    async def precedents(self, last: int, wait_s: float = ANSWER_S) -> list[bytes]:
        """Return about as many of the last decisions of all workers, as lines; of who answers within ``wait_s``.

        Raises SilenceError if nobody does.
        """
        children = self._children()
        each = math.ceil(last / max(1, len(children)))
        return _told(await asyncio.gather(*[_ask_for(each, child, Recall, wait_s) for child in children]), wait_s)

    async def decisions(self, last: int, request_id: str | None = None) -> list[dict[str, Any]]:
        """Return the last decisions of all workers, or those of one request, newest first; raise SilenceError."""
        asked = (_ask_for(last, child, lambda most, at_s: Decisions(most, request_id, at_s)) for child in self._children())
        entries = _told(await asyncio.gather(*asked), ANSWER_S)
        return sorted(entries, key=lambda entry: -entry["at_s"])[:last]

    async def stacks(self) -> str:
        """Return where everybody is."""
        children = self._children(self._everybody())
        answers = await asyncio.gather(*[child.ask(Stacks(), ANSWER_S) for child in children])
        parts = [f"== supervisor\n\n{trace()}"]
        for child, answer in zip(children, answers, strict=True):
            words = answer.text if isinstance(answer, Traced) else f"no answer within {ANSWER_S:g} s\n"
            parts.append(f"== process {child.pid}, seat {child.seat.index}\n\n{words}")
        return "\n".join(parts)

    # -- the workers -------------------------------------------------------------------------------------------------

    def _everybody(self) -> list[Post]:
        return [*self._posts, *filter(None, (self._collector, self._sharer))]

    def _children(self, posts: Sequence[Post] | None = None) -> list[Child]:
        posts = self._posts if posts is None else posts
        return [post.child for post in posts if post.child is not None and not post.child.end.done()]

    def _make_posts(self) -> None:
        settings = self._settings
        self._ports = Ports(shared=self._seating.orphaned)
        for number, worker in enumerate(lay_out(settings, self._ports, orphaned=self._seating.orphaned)):
            hire = partial(self._hire, f"worker-{number}", worker)
            self._posts.append(Post(f"worker-{number}", address(worker.host, worker.port), hire, self._bury))
        if settings.collector is not None:
            collector = lay_out_collector(settings.collector, self._ports)
            where = address(collector.host, collector.port)
            self._collector = Post("collector", where, partial(self._hire_collector, collector), self._bury)
            log.info("records on %s", where)
        if settings.sharer is not None:
            self._sharer = Post("sharer", "", partial(self._hire_sharer, settings.sharer), self._bury)

    async def _hire(self, name: str, settings: WorkerSettings) -> Child:
        seat = self._seating.take()
        self._hired[seat.life] = self._configuration, self._levels
        try:
            return await self._spawn(name, work, seat, settings, self._configuration, self._levels)
        except BaseException:
            self._seating.give_back(seat)
            del self._hired[seat.life]
            raise

    async def _hire_collector(self, settings: CollectorSettings) -> Child:
        return await self._spawn("collector", collect, self._seating.take_last(), settings)

    async def _hire_sharer(self, settings: SharerSettings) -> Child:
        return await self._spawn("sharer", share, self._seating.take_sharers(), settings)

    async def _spawn(self, name: str, target: Callable[..., Awaitable[int]], seat: Seat, *args: object) -> Child:
        account = partial(self._seating.account, seat)
        return await spawn(name, self._level, self._settings.log_format, target, seat, *args, account=account)

    def _bury(self, child: Child) -> None:
        self._seating.clear(child.seat)
        hired = self._hired.pop(child.seat.life, None)
        if hired and hired[0] in (self._compared, self._configuration) and child.status and child.status.shadow:
            before = self._shadowed.get(hired[0], Account())
            self._shadowed[hired[0]] = add_up([before, child.status.shadow])

    async def _see_them_serve(self) -> None:
        """Wait for the first workers; raise ConfigError if one says that it cannot serve as it is configured."""
        for post in self._everybody():
            await post.tried.wait()
            child = post.child  # it may have a successor before it is looked at
            if child is not None:
                await child.greeted.wait()
                if child.words is not None:
                    raise ConfigError(child.words)

    # -- reloading ---------------------------------------------------------------------------------------------------

    async def _follow_wishes(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            result = await self._reload()
            self._reloads[result] = self._reloads.pop(result, 0) + 1
            log.info("reload: %s", result)

    async def _reload(self) -> str:
        before, levels_before = self._configuration, self._levels
        try:
            wanted, levels = self._read_valid()
        except ConfigError as error:
            log.error("the configuration stays as it is: %s", error)  # noqa: TRY400  words, not a traceback
            return "rejected"
        except Exception:  # plugins are foreign code, and whoever serves well does not end for one that is not in force
            log.exception("the configuration stays as it is: a plugin that it names has raised")
            return "rejected"
        if wanted != before and self._settings.worker.role != "body-router" and not await self._try(wanted):
            return "refused"
        self._configuration, self._levels = wanted, levels
        for post in self._posts:
            if not await post.relieve(self._settings.worker.drain_s):
                self._configuration, self._levels = before, levels_before  # for all: two at once is what nobody asked for
                for changed in self._posts:
                    child = changed.child
                    # Who has died meanwhile may have a successor by now that was hired with the new ones.
                    if child is None or child.end.done() or self._hired.get(child.seat.life) != (before, levels_before):
                        await changed.relieve(self._settings.worker.drain_s)
                return "failed"
        self._compared = wanted
        self._shadowed = {wanted: self._shadowed.get(wanted, Account())}  # begins anew where that is another one
        return "done"

    async def _try(self, wanted: str) -> bool:
        """Let the new configuration decide what was decided last; say what would change, and whether that is allowed."""
        most = self._settings.reload_max_change
        try:
            lines = await self.precedents(TRIED, TRIED_S)
            trial = await asyncio.to_thread(_hold_trial, lines, self._configuration, wanted, most)
        except Exception as error:  # noqa: BLE001  plugins are foreign code; a worker that cannot start says so itself
            log.warning("the new configuration cannot be tried on what was decided last: %s: %s", type(error).__name__, error)
            return True
        self._trial = trial
        for line in trial.report:
            log.info("dry run: %s", line)
        if not trial.taken:
            log.error(
                "the configuration stays as it is: %.0f %% of picks would change, --reload-max-change allows %.0f %%",
                100 * trial.retrial.share,
                100 * (most or 0.0),
            )
        return trial.taken

    async def _watch_config(self) -> None:
        seen = self._configuration, self._levels
        trouble = ""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                texts, trouble = (self._read(), self._read_levels()), ""
            except ConfigError as error:
                last, trouble = trouble, str(error)
                if trouble != last:  # one is being replaced; whoever finds it so twice is to hear of it
                    continue
                texts = trouble, ""
            if texts != seen:
                seen = texts
                log.info("the configuration has changed")
                self.reload()


async def _ask_for(
    most: int, child: Child, ask: Callable[[int, float | None], Recall | Decisions], wait_s: float = ANSWER_S
) -> list[Any] | None:
    """Ask a worker for its last decisions, some at a time: it has requests to answer in between. None: it does not answer."""
    found: list[Any] | None = None
    before_s = None
    while found is None or len(found) < most:
        match await child.ask(ask(most - len(found or ()), before_s), wait_s):
            case Recalled(told, before_s) | Decided(told, before_s):
                found = [*(found or ()), *told]
            case _:
                break
        if before_s is None:
            break
    return found


def _told(answers: Sequence[list[Any] | None], wait_s: float) -> list[Any]:
    """Put together what workers answered; raise SilenceError if none did."""
    heard = [each for each in answers if each is not None]
    if not heard:
        raise SilenceError(f"no worker has answered within {wait_s:g} s; /readyz says how they are")
    return [entry for each in heard for entry in each]


def _hold_trial(lines: Sequence[bytes], in_force: str, wanted: str, most: float | None) -> Trial:
    """Try a configuration, and for comparison the one in force, which remembers more than was recorded."""
    precedents = list(read(lines))
    old, new = (retry(precedents, config.load(each).policy, random.Random(0)) for each in (in_force, wanted))  # noqa: S311  no secret
    return Trial(
        at_s=time.time(),
        taken=most is None or new.share <= most,
        report=tuple(report(new, old)),
        retrial=new,
        in_force=old,
    )


def run(settings: Settings, read: Callable[[], str], read_levels: Callable[[], str] = str) -> int:
    """Run until SIGTERM or SIGINT and return the exit code. Raises ConfigError if it cannot start."""
    log_to_stderr(settings.log_level, settings.log_format, "supervisor")
    with claim_directory(settings.runtime):
        return asyncio.run(_run(Supervisor(settings, read, read_levels), settings.worker.drain_s))


async def _run(supervisor: Supervisor, drain_s: float) -> int:
    loop, over, at_once, over_s = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), math.inf

    def end() -> None:
        nonlocal over_s
        (at_once if loop.time() - over_s > ECHO_S else over).set()
        over_s = min(over_s, loop.time())

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, end)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.toggle_debug)
    try:
        if await _unless(over, supervisor.start()):
            await _unless(over, supervisor.watch())
        log.info("draining, at most %g s", drain_s)
    finally:
        draining = asyncio.create_task(supervisor.drain())
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            supervisor.kill()
        await draining
    return int(at_once.is_set())


async def _unless(event: asyncio.Event, act: Coroutine[Any, Any, None]) -> bool:
    """Do it; False if ``event`` came first, and it was left off."""
    doing, waiting = asyncio.ensure_future(act), asyncio.ensure_future(event.wait())
    await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if doing.done():
        await doing
        return True
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    return False
