"""A second policy that decides a sample of the requests too, and has no say: where it differs, and how those requests went.

It decides upon a copy of what the first one met, with plugins of its own: nothing is booked, told or sent. What it knows of
cached prefixes is what the first policy knows; one that asks for none has them remembered for the shadow's sake.

The estimator: of streamed requests whose time to first token became known, the logarithms of the times are averaged by stratum,
which is the power of two of the prompt's tokens that the endpoint had not cached. In each stratum the mean where both policies
agreed is taken from the mean where they differed; the differences are averaged, weighted by how many differed. That is by how
much first tokens were later where the shadow would have gone elsewhere. It is an association: it says where the policy in force
does badly, not that the shadow would have done better. Both choose without chance but for ties, so no outcome of a choice that
was not made is ever seen, and none can be weighted back by its propensity; and policies differ most when the pool is busy.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from shunter.picker.core.features import Features, restore
from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.kinds import Dice, Verdict
from shunter.picker.core.policy import Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.retrial import Stage, as_good, compare, describe_stages
from shunter.picker.core.schedule import Scheduler

__all__ = ["Account", "Shadow", "Stratum", "add_up", "describe"]

# Decisions whose outcome is waited for; older ones never had a stream, or nobody tells.
WAITING = 4_096

# Of a stratum, on either side: two values are the fewest that have a spread.
FEWEST = 2

# Standard errors left and right of an estimate.
CONFIDENCE = 1.96


class Sum(msgspec.Struct):
    """Logarithms of times to first token."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Add one."""
        self.count += 1
        self.total += value
        self.squares += value * value

    def join(self, other: "Sum") -> None:
        """Add another's."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.count

    @property
    def error2(self) -> float:
        """The square of the mean's standard error."""
        return max(0.0, self.squares - self.total * self.mean) / (self.count - 1) / self.count


class Stratum(msgspec.Struct):
    """Requests of a size."""

    agreed: Sum = msgspec.field(default_factory=Sum)
    differed: Sum = msgspec.field(default_factory=Sum)


class Awaited(msgspec.Struct, frozen=True):
    """A decision whose outcome is to come."""

    stratum: int
    differs: bool
    follows: bool  # do the plugins believe that it is in flight


class Account(msgspec.Struct):
    """What came of it; accounts of workers add up."""

    decided: int = 0
    differed: int = 0
    refused: int = 0  # of those
    spent_s: float = 0.0  # of the worker's time
    strata: dict[int, Stratum] = {}  # by the power of two of uncached tokens
    stages: dict[str, Stage] = {}  # by profile that does not name the endpoint
    complaints: dict[str, str] = {}  # what plugins did wrong first, by name

    def later(self) -> tuple[float, float] | None:
        """Return by which factor first tokens were later where the policies differed, and by which it may be wrong (95 %)."""
        known = [each for each in self.strata.values() if min(each.agreed.count, each.differed.count) >= FEWEST]
        weight = sum(each.differed.count for each in known)
        if not weight:
            return None
        mean = sum(each.differed.count * (each.differed.mean - each.agreed.mean) for each in known) / weight
        error2 = sum(each.differed.count**2 * (each.differed.error2 + each.agreed.error2) for each in known) / weight**2
        return math.exp(mean), math.exp(CONFIDENCE * math.sqrt(error2))


class Shadow:
    """A policy at work without a say."""

    def __init__(self, policy: Policy, dice: Dice, sample: float, clock: Callable[[], float]) -> None:
        """Decide the part ``sample`` of requests; ``clock`` says in seconds what that costs."""
        self.account = Account()
        self.prefixes = policy.prefixes
        self._scheduler = Scheduler(policy, dice, lambda _name, _data: None)
        self.account.complaints = self._scheduler.complaints.words
        self.unlogged = self._scheduler.complaints.unlogged
        """What its plugins raised first, by name, and nobody has logged yet; to be taken out by who does."""
        self._dice = dice
        self._sample = sample
        self._clock = clock
        self._waiting: OrderedDict[int, Awaited] = OrderedDict()  # by ticket

    def decide(self, request: Request, features: Features, first: Verdict) -> None:
        """Decide too what the ``first`` policy has decided, if it is in the sample."""
        if self._dice.random() >= self._sample:
            return
        began_s = self._clock()
        decision = first.decision
        columns = features.columns()
        fleet = restore(columns, request.at_ns)
        met = decision.narrowed[0][1] if decision.narrowed else decision.candidates
        fleet = fleet.narrow(fleet.among([each.authority for each in met]))
        facts = {name: fact for name, fact in request.facts.items() if isinstance(fact, Match)}
        request = msgspec.structs.replace(request, facts=facts)
        verdict = self._scheduler.run(self._scheduler.identify(request), fleet)
        account, chosen = self.account, decision.candidates[decision.chosen[0]]
        account.decided += 1
        if verdict is None or isinstance(verdict, Refusal):
            differs, follows = True, False
            account.refused += 1
        else:
            mine, follows = verdict.decision, True
            differs = mine.candidates[mine.chosen[0]].slot != chosen.slot and not as_good(mine, chosen.authority)
        account.differed += differs
        chose = {name: each.candidates[each.chosen[0]].authority for name, each in first.others.items() if each.chosen}
        compare(account.stages, chose, verdict.others if isinstance(verdict, Verdict) else {})
        uncached = request.prompt_tokens * (1.0 - request.prefix.share.get(chosen.slot, 0.0))
        self._waiting[request.ticket] = Awaited(int(uncached).bit_length(), differs, follows)
        if len(self._waiting) > WAITING:
            ticket, awaited = self._waiting.popitem(last=False)
            self._end(ticket, awaited, Outcome(complete=False), request.at_ns / 1e9)
        account.spent_s += self._clock() - began_s

    def close(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Learn how a request went; perhaps more than once, later with more."""
        awaited = self._waiting.get(ticket)
        if awaited is None:
            return
        self._end(ticket, awaited, outcome, now_s)
        if outcome.first_token_s is not None and outcome.first_token_s > 0:
            del self._waiting[ticket]
            found = self.account.strata.setdefault(awaited.stratum, Stratum())
            (found.differed if awaited.differs else found.agreed).add(math.log(outcome.first_token_s))

    def _end(self, ticket: int, awaited: Awaited, outcome: Outcome, now_s: float) -> None:
        """Tell the plugins that a request is over, and how it went if it went where they sent it."""
        if awaited.follows:
            known = Outcome(complete=outcome.complete, lasts=outcome.lasts) if awaited.differs else outcome
            self._scheduler.observe(ticket, known, now_s)


def add_up(accounts: Iterable[Account]) -> Account:
    """Return all of them as one."""
    total = Account()
    for each in accounts:
        total.decided += each.decided
        total.differed += each.differed
        total.refused += each.refused
        total.spent_s += each.spent_s
        total.complaints |= each.complaints
        for name, stage in each.stages.items():
            all_of = total.stages.setdefault(name, Stage())
            all_of.recorded += stage.recorded
            all_of.now += stage.now
            all_of.moved += stage.moved
        for size, stratum in each.strata.items():
            mine = total.strata.setdefault(size, Stratum())
            mine.agreed.join(stratum.agreed)
            mine.differed.join(stratum.differed)
    return total


def describe(account: Account) -> list[str]:
    """Put it in words."""
    if not account.decided:
        return ["the shadow has decided nothing yet"]
    share = 100 * account.differed / account.decided
    lines = [f"the shadow would have gone elsewhere with {share:.1f} % of {account.decided} requests"]
    if account.refused:
        lines[0] += f", and refused {100 * account.refused / account.decided:.1f} %"
    lines += describe_stages(account.stages, account.decided)
    lines.append(f"it takes {1e6 * account.spent_s / account.decided:.0f} µs a request")
    later = account.later()
    measured = sum(each.agreed.count + each.differed.count for each in account.strata.values())
    if later is None:
        lines.append(f"first tokens: known of {measured} requests, too few on either side to compare")
    else:
        factor, error = later
        lines.append(
            f"where they differ first tokens came after {factor:.2f} times what they take where both agree "
            f"({factor / error:.2f} to {factor * error:.2f}, prompts of a size compared, {measured} requests)"
        )
    return lines + [f"{name}: {words}" for name, words in account.complaints.items()]
