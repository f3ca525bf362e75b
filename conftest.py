"""What holds for the tests of all packages.

No example of a property is judged by the time it takes: the machine may be busy. Hypothesis's phase "explain" is left out: it
traces every line of a failing test for minutes to say what a look at the smallest example says too.
"""

from hypothesis import Phase, settings

settings.register_profile("house", deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain])
settings.load_profile("house")
