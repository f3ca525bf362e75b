"""A recorded vLLM: what it published while it was asked these prompts is, by name, what its own tokenizer made of them."""

import lzma
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from shunter.scraper.core.holdings import Holdings
from shunter.scraper.core.kvevents import Order, Verdict, decode, sequence_of
from shunter.snapshot import Cleared, Dropped, Held, names_of

FILE = Path(__file__).parent / "data" / "kvevents" / "vllm-0.32.0.msgpack.xz"
BLOCK_SIZE = 32


class Recording(msgspec.Struct):
    publications: list[list[bytes]]  # topic, sequence, payload
    asks: list[bytes]  # JSON: path, body, tokens as /tokenize tells them; in order


@pytest.fixture(scope="module")
def recording():
    return msgspec.msgpack.decode(lzma.decompress(FILE.read_bytes()), type=Recording)


@pytest.fixture(scope="module")
def asks(recording):
    """(adapter, salt, tokens) of each prompt."""
    asks = [msgspec.json.decode(each) for each in recording.asks]
    prompts = [(each["body"], each["tokens"]) for each in asks if each.get("tokens")]
    return [(None if body["model"] == "tiny" else body["model"], body.get("cache_salt"), tokens) for body, tokens in prompts]


def held_after(publications):
    """Yield what is held after each publication."""
    holdings, held = Holdings(0, 1), set()
    for frames in publications:
        for statement in holdings.apply(decode(frames[-1])):
            match statement:
                case Held():
                    held |= set(statement.names)
                case Dropped():
                    held -= set(statement.names)
                case Cleared():
                    held.clear()
        yield set(held)
    assert not holdings.orphans


def test_every_prompt_is_announced_under_the_names_of_its_tokens(recording, asks):
    moments = list(held_after(recording.publications))
    assert {(adapter, salt) for adapter, salt, _ in asks} == {
        (None, None),
        ("lora-b", None),
        (None, "salt"),
        ("lora-b", "salt"),
    }
    for adapter, salt, tokens in asks:
        names = set(names_of(tokens, BLOCK_SIZE, adapter=adapter, salt=salt))
        assert len(names) >= 4
        assert any(names <= held for held in moments)


def test_prompts_that_must_share_nothing_do_not(asks):
    kinds = {}
    for adapter, salt, tokens in asks:
        kinds.setdefault((adapter, salt), set()).update(names_of(tokens, BLOCK_SIZE, adapter=adapter, salt=salt))
    assert len(kinds) == 4
    for kind, names in kinds.items():
        assert not any(names & others for other, others in kinds.items() if other != kind)


def test_what_was_evicted_and_cleared_is_held_no_longer(recording):
    moments = list(held_after(recording.publications))
    assert any(before - after and after for before, after in pairwise(moments))
    assert any(before and not after & before for before, after in pairwise(moments))


def test_sequence_numbers_have_no_gap(recording):
    order = Order()
    for frames in recording.publications:
        sequence = sequence_of(frames)
        assert order.live(sequence) is Verdict.NEXT
        order.take(sequence)
