"""EndpointPickerConfig: what llm-d and GIE call the picker's configuration, read strictly, into the policy it comes down to.

Both API groups are read. Every mistake is a ConfigError that names place, value and remedy. What upstream knows and this picker
cannot honour yet is such an error too: nothing is accepted and then ignored.

Defaults, in this order:

1. Without ``schedulingProfiles`` there is one, ``default``, with every declared filter and scorer in the order of declaration,
   and the picker if one is declared.
2. A profile without a picker takes the declared one, else max-score-picker. A scorer without a weight weighs 1.
3. ``prefix-cache-scorer`` brings approx-prefix-cache-producer along.
4. Parsers are openai, anthropic, vllmhttp and passthrough; the saturation detector is utilization-detector. Both can be
   referred to by type without being declared.
"""

from shunter.picker.config.document import DEFAULT, EndpointPickerConfig, schema
from shunter.picker.config.resolution import Plan, effective, import_plugin, load

__all__ = ["DEFAULT", "EndpointPickerConfig", "Plan", "effective", "import_plugin", "load", "schema"]
