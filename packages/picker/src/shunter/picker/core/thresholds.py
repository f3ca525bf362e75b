"""From when on something is worth telling: the numbers that the page's verdict and the alerts have in common.

Both compare with these, each in its own words and over its own time: the page looks at the last minute and speaks at once, an
alert waits until it has lasted (`shunter.picker.core.verdict`, `shunter.picker.core.alerts`).
"""

from shunter.picker.core.judgement import DropReason

__all__ = [
    "BYPASSED_SHARE",
    "EXPIRES_S",
    "FAILED_SHARE",
    "HIDDEN_REQUESTS",
    "HITS_LOST",
    "LOUD",
    "REFUSED_SHARE",
    "SATURATED",
    "SHED",
    "SNAPSHOT_LOST_S",
    "STRANGE_SHARE",
    "WORTH_CACHING",
]

# A scraper that is started again is silent for two seconds or three; in ten times as long endpoints have come and gone.
SNAPSHOT_LOST_S = 30.0

# Of a dying worker's requests some go without a pick, once.
BYPASSED_SHARE = 0.01

# Endpoints that go take their last requests with them, for as long as those last; half of all is another pool.
STRANGE_SHARE = 0.5

# Clients retry what fails now and then; one request in twenty is more than that.
FAILED_SHARE = 0.05
REFUSED_SHARE = 0.05

# Reasons of refusals for want of room. What is refused by a status is a client's mistake, and who leaves wants nothing more.
SHED = tuple(reason.value for reason in DropReason if reason is not DropReason.CONTEXT_CANCELLED)

# What a detector of saturation calls full.
SATURATED = 1.0

# Of the requests of all tenants.
LOUD = 0.8

# Of the hits that are usual; where less than a fifth of the prompts is cached nobody counts on it.
HITS_LOST = 0.5
WORTH_CACHING = 0.2

# At an engine that says it runs nothing: so many cannot all be on their way.
HIDDEN_REQUESTS = 4

# Certificates are renewed weeks before their end; one that has a week left was forgotten.
EXPIRES_S = 7 * 86_400
