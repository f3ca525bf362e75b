"""Who is given up for hung, and who is only busy."""

from shunter.picker.shell.process import BEAT_S, HUNG_S, Patience

BEATS = int(HUNG_S / BEAT_S)


def patience():
    patience = Patience()
    assert not patience.is_over(answered=True, account=b"0")
    return patience


def test_it_ends_after_three_seconds_without_an_answer_and_without_anything_counted():
    waiting = patience()
    assert [waiting.is_over(answered=False, account=b"0") for _ in range(BEATS)] == [False] * (BEATS - 1) + [True]


def test_an_answer_renews_it():
    waiting = patience()
    for _ in range(10):
        assert not any(waiting.is_over(answered=False, account=b"0") for _ in range(BEATS - 1))
        assert not waiting.is_over(answered=True, account=b"0")


def test_who_counts_on_without_answering_is_busy():
    waiting = patience()
    assert not any(waiting.is_over(answered=False, account=b"%d" % beat) for beat in range(100))
