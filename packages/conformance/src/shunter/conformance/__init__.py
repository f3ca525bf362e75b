"""The exam: does a model server keep the protocol that an inference gateway relies on?

Importing this package costs nothing; take what you need from its modules:

    shunter.conformance.shell.runner    examine(url) → events, one by one
    shunter.conformance.sections        CASES, the syllabus in the order in which it is examined
    shunter.conformance.core.case       Case, Level, Bound, Target: to write a case; select: to choose some
    shunter.conformance.core.profile    PROFILES: what kinds of servers call their metrics, and which failures are known
    shunter.conformance.core.events     what happens in an exam, as values
    shunter.conformance.core.report     events → ConformanceReport, JUnit, NDJSON
"""

__all__: list[str] = []
