"""Believable model servers: vLLM's dialect over HTTP, and the engine model behind it, which is told what time it is.

Importing this package costs nothing; take what you need from its modules:

    shunter.lab.testing         lab_server, LabServer: a real server in your test, on a free port, broken on request
    shunter.lab.faults          FAULTS, Fault: the ways in which a server can be broken
    shunter.lab.core.engine     Engine: the engine without HTTP, in whatever time you give it
    shunter.lab.core.simulation simulate: a fleet of engines in virtual time, under whoever chooses where requests go
    shunter.lab.core.judges     JudgeChooser: the picker's own judgement as a chooser
    shunter.lab.workloads       WORKLOADS, find_workload: traffic, with the fleet it is meant for and what its users call good
    shunter.lab.policies        policies, find_policy: who chooses
    shunter.lab.compare         compare, tables: policies side by side on workloads
    shunter.lab.core.params     EngineParams: what the imagined machine costs and holds
"""

__all__: list[str] = []
