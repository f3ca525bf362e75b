"""What Prometheus reads, of what its source tells."""

from prometheus_client.parser import text_string_to_metric_families

from shunter.picker.core.overview import look
from shunter.picker.core.shadow import Account
from shunter.picker.core.tables import Tally
from shunter.picker.shell.metrics import Metrics


class Source:
    """A picker that has nothing but complaints."""

    def overview(self):
        return look(None, None, self.tally(), 0, complaints={"angry": "OSError: no", "blind": "it needs to see responses"})

    def tally(self):
        return Tally()

    def workers(self):
        return []

    def pool(self):
        return "default"

    def reloads(self):
        return {}

    def learned(self):
        return None

    def shadow(self):
        return Account(decided=5, differed=3, refused=1, spent_s=0.25)


def test_what_the_shadow_would_do_is_a_metric():
    families = {family.name: family for family in text_string_to_metric_families(Metrics(Source()).render().decode())}
    results = {each.labels["result"]: each.value for each in families["shunter_picker_shadow_decisions"].samples}
    assert results == {"agreed": 2, "differed": 2, "refused": 1}
    assert families["shunter_picker_shadow_seconds"].samples[0].value == 0.25


def test_a_plugin_that_is_complained_of_is_a_metric():
    families = {family.name: family for family in text_string_to_metric_families(Metrics(Source()).render().decode())}
    complaints = families["shunter_picker_plugin_complaints"].samples
    assert [(sample.labels, sample.value) for sample in complaints] == [({"plugin": "angry"}, 1.0), ({"plugin": "blind"}, 1.0)]
