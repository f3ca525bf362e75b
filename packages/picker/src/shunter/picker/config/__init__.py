"""EndpointPickerConfig: what llm-d and GIE call the picker's configuration, read strictly, into the policy it comes down to.

All API groups and the spellings of former releases are read (``former``). Every mistake is a ConfigError that names place,
value and remedy. What upstream knows and this picker cannot honour is such an error too: nothing is accepted and then ignored
without a note.

Defaults, in this order:

1. Without ``schedulingProfiles`` there is one, ``default``, with every declared filter, scorer and picker in the order of
   declaration. The saturation detectors are filters, too.
2. A profile without a picker takes the declared one, else max-score-picker; two declared ones and none listed is a mistake.
   A scorer without a weight weighs 1.
3. One profile needs no profile handler; several need one that can choose among them.
4. Flow control's policies are fcfs, global-strict and static-usage-limit, the saturation detector is utilization-detector,
   the parsers are openai, anthropic, vllmhttp and passthrough. All can be referred to by type without being declared.
5. A plugin that reads prefix matches and names no producer takes approx-prefix-cache-producer: the one of that name, else the
   only one that no other plugin names, else one more. Plugins that refer to each other start in that order.
"""

from shunter.picker.config.builtins import about_builtin, builtin_names, read_builtin
from shunter.picker.config.document import EndpointPickerConfig
from shunter.picker.config.json_schema import schema
from shunter.picker.config.loading import DEFAULT, Plan, effective, import_plugin, load, rehearse
from shunter.picker.config.review import PROFILES, review, review_fleet

__all__ = [
    "DEFAULT", "PROFILES", "EndpointPickerConfig", "Plan", "about_builtin", "builtin_names", "effective", "import_plugin",
    "load", "read_builtin", "rehearse", "review", "review_fleet", "schema",
]  # fmt: skip
