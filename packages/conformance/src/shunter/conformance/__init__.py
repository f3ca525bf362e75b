"""The exam: does a model server, an endpoint picker or a gateway keep the protocol that inference gateways rely on?

Importing this package costs nothing; take what you need from its modules:

    shunter.conformance.shell.servers.exam   examine(url) → events, one by one; pickers and gateways alike
    shunter.conformance.shell.runner         attend(target, cases) → events, for targets of your own
    shunter.conformance.sections             CASES, the syllabus in the order in which it is examined
    shunter.conformance.core.case            Case, Level, Bound: to write a case; select: to choose some
    shunter.conformance.core.events          what happens in an exam, as values
    shunter.conformance.core.report          events → ConformanceReport, JUnit, NDJSON, HTML, Markdown
"""

__all__: list[str] = []
