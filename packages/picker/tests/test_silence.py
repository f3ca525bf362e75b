"""The log says once that the scraper is silent, and once that it is heard again."""

from shunter.picker.shell.silence import Silence


def test_each_change_is_told_once():
    silence = Silence()
    told = [words for age_s in (None, 0.1, 3.0, 6.0, 7.0, 0.1, 0.2) if (words := silence.look(age_s))]
    assert told == [
        "the scraper has been silent for 6 s: picks go by requests in flight alone",
        "the scraper is heard again",
    ]
