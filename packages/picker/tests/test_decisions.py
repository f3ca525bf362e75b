"""The log of decisions and its witnesses."""

from msgspec.structs import replace

from shunter.picker.core.decisions import BATCH, KEEP_CANDIDATES, DecisionLog, Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Decision

ENDED = Outcome(complete=True, duration_s=1.0)


class Witness:
    name = "a witness"

    def __init__(self):
        self.told = []

    def follow(self, decided, ended):
        self.told.append(([entry.ticket for entry in decided], [ticket for ticket, _, _ in ended]))


def complain(name, error):
    raise AssertionError(name) from error


def log_of(*witnesses, keep=2):
    log = DecisionLog(complain, keep)
    log.witnesses += witnesses
    return log


def decided(ticket):
    return Entry(ticket=ticket, at_s=10.0, request_id="r")


def test_witnesses_are_told_what_is_new_when_asked_for_once_and_in_turn():
    first, second = Witness(), Witness()
    log = log_of(first, second)
    log.add(decided(1))
    log.close(1, ENDED, 11.0)
    log.add(decided(2))
    assert first.told == []
    log.tell()
    log.tell()
    assert first.told == second.told == [([1, 2], [1]), ([], [])]


def test_witnesses_are_told_before_there_is_too_much_to_tell():
    witness = Witness()
    log = log_of(witness)
    for ticket in range(BATCH):
        assert witness.told == []
        log.add(decided(ticket))
    for ticket in range(BATCH):
        log.close(ticket, ENDED, 11.0)
        log.close(ticket, ENDED, 11.5)
    assert [len(news) for told in witness.told for news in told] == [BATCH, 0, 0, 2 * BATCH]


def test_a_witness_that_raises_is_complained_of_and_the_others_are_told_all_the_same():
    class Broken(Witness):
        name = "the broken one"

        def follow(self, decided, ended):
            raise ZeroDivisionError("no")

    witness, complaints = Witness(), []
    log = DecisionLog(lambda *told: complaints.append(told))
    log.witnesses += [Broken(), witness]
    for ticket in range(2 * BATCH):
        log.add(decided(ticket))
        log.close(ticket, ENDED, 11.0)
    assert [(name, str(error)) for name, error in complaints] == [("the broken one", "no")] * 2
    assert [ticket for told, _ in witness.told for ticket in told] == [*range(2 * BATCH)]


def test_how_a_request_ended_is_in_the_log_at_once():
    log = log_of()
    log.add(decided(1))
    log.close(1, ENDED, 11.0)
    (entry,) = log.latest()
    assert entry.outcome is ENDED


def test_a_record_takes_nothing_back_that_was_read_in_the_response():
    """In profile full the stream has the tokens, and the gateway's record has none."""
    seen = Outcome(complete=True, status=200, first_token_s=0.2, prompt_tokens=9, completion_tokens=4, cached_tokens=8)
    record = Outcome(complete=True, status=200, duration_s=1.5, sent_bytes=700)
    log = log_of()
    log.add(decided(1))
    log.close(1, seen, 11.0)
    log.close(1, record, 12.0)
    told = replace(seen, duration_s=1.5, sent_bytes=700)
    assert log.latest()[0].outcome == told
    log.close(1, replace(record, completion_tokens=5), 13.0)
    assert log.latest()[0].outcome == replace(told, completion_tokens=5)


def test_the_log_is_bounded_and_newest_first():
    log = DecisionLog(complain, keep=3)
    for ticket in range(9):
        log.add(Entry(ticket=ticket, at_s=0.0, request_id=str(ticket % 2)))
    log.close(0, ENDED, 0.0)
    log.close(8, ENDED, 0.0)
    assert [entry.ticket for entry in log.latest(2)] == [8, 7]
    assert (log.find("0").ticket, log.find("0").outcome, log.find("none")) == (8, ENDED, None)
    assert len(log.latest()) == 3


def test_the_log_is_bounded_by_its_candidates_too(make_fleet):
    decision = Decision(make_fleet(*[{}] * 100).endpoints * (KEEP_CANDIDATES // 200), chosen=[0])
    log = DecisionLog(complain)
    for ticket in range(5):
        log.add(Entry(ticket=ticket, at_s=0.0, request_id="", decision=decision))
    assert [entry.ticket for entry in log.latest()] == [4, 3]


def test_a_log_may_keep_nothing():
    log = DecisionLog(complain, keep=0)
    log.add(Entry(ticket=1, at_s=0.0, request_id=""))
    assert log.latest() == []
