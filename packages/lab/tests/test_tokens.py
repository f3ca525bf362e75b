"""The stand-in for a tokeniser and a model is deterministic and consistent with itself."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.tokens import _WORDS, LONGEST_TOKEN_CHARS, tokenise, write


def test_english_costs_about_four_bytes_a_token():
    text = "The shunter sorts every wagon onto the right track before the night train leaves the yard. " * 20
    assert 3.5 < len(text) / len(tokenise(text)) < 5.0


@given(st.text())
def test_a_text_has_at_least_the_announced_number_of_tokens(text):
    assert len(text) / LONGEST_TOKEN_CHARS <= len(tokenise(text)) <= len(text)


@given(st.text(), st.text())
def test_a_conversation_begins_with_the_tokens_of_its_beginning(before, after):
    head = f"{before}\n"
    assert tokenise(f"{head}{after}")[: len(tokenise(head))] == tokenise(head)


@given(st.integers(1, 300), st.booleans())
def test_what_was_said_is_tokenised_as_it_was_generated(max_tokens, ignore_eos):
    script = write((1, 2, 3), max_tokens, ignore_eos=ignore_eos)
    assert tokenise("\n" + "".join(script.pieces))[1:] == script.tokens


def test_every_word_is_one_token():
    assert all(len(tokenise(word)) == 1 for word in _WORDS)
    assert len(set(_WORDS)) == len(_WORDS)


@given(st.integers(1, 600), st.integers(1, 600))
def test_a_shorter_answer_is_the_beginning_of_a_longer_one(one, other):
    short, long = sorted((one, other))
    assert write((5,), long).tokens[: len(write((5,), short).tokens)] == write((5,), short).tokens


def test_prompts_adapters_and_seeds_speak_differently():
    said = {
        "".join(script.pieces)
        for script in (
            write((1,), 30),
            write((2,), 30),
            write((1,), 30, adapter="a"),
            write((1,), 30, adapter="b"),
            write((1,), 30, seed="1"),
        )
    }
    assert len(said) == 5


def test_an_answer_costs_what_it_says_and_not_what_it_might():
    assert len(write((1,), 10**12).tokens) <= 512


def test_ignore_eos_gives_exactly_max_tokens():
    for prompt in range(50):
        script = write((prompt,), 700, ignore_eos=True)
        assert (len(script.tokens), script.finish) == (700, "length")


def test_answers_end_by_themselves_unless_min_tokens_forbids():
    lengths = [len(write((prompt,), 2000).tokens) for prompt in range(200)]
    assert min(lengths) >= 16
    assert max(lengths) <= 512
    assert len(set(lengths)) > 50
    assert write((1,), 2000).finish == "stop"
    assert len(write((1,), 2000, min_tokens=1000).tokens) >= 1000


@given(st.integers(0, 100), st.integers(1, 8), st.booleans(), st.integers(0, 20))
def test_a_stop_string_ends_the_text_before_or_after_itself(at, length, keep, min_tokens):
    pieces = write((7,), 60, ignore_eos=True).pieces
    plain = "".join(pieces)
    earliest = len("".join(pieces[:min_tokens]))
    stop = plain[earliest + at : earliest + at + length]
    script = write((7,), 60, ignore_eos=True, stop=[stop], keep_stop=keep, min_tokens=min_tokens)
    text = "".join(script.pieces)
    assert plain.startswith(text)
    assert (script.finish, script.stop_reason) == ("stop", stop)
    assert text.endswith(stop) if keep else stop not in text[earliest:]
    assert len(script.pieces) == len(script.tokens)


def test_the_earliest_of_several_stop_strings_wins():
    pieces = write((7,), 60, ignore_eos=True).pieces
    script = write((7,), 60, ignore_eos=True, stop=[pieces[9], pieces[4]])
    assert script.stop_reason == pieces[4]
    assert "".join(script.pieces) == "".join(pieces[: pieces.index(pieces[4])])
