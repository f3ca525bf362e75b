"""Every error this package raises.

::

    LabError                 anything the lab refuses
    ├── ParamsError          a parameter, model, adapter or fault that cannot be; the command line exits 2 with it
    ├── TraceError           a trace, workload or policy that cannot be read; the command line exits 2 with it
    ├── TooLongError         a request that could never fit the context window
    ├── QueueFullError       the waiting queue is at its configured limit
    └── ApiError             an HTTP request answered with an error in vLLM's shape
"""

__all__ = ["ApiError", "LabError", "ParamsError", "QueueFullError", "TooLongError", "TraceError"]


class LabError(Exception):
    """Anything the lab refuses; the message says what, why and what to do."""


class ParamsError(LabError):
    """The server cannot be built like this."""


class TraceError(LabError):
    """A trace, a workload or a policy that is not there or not what it should be."""


class TooLongError(LabError):
    """Prompt and output together exceed the context window."""


class QueueFullError(LabError):
    """As many requests wait as `max_num_queued_reqs` allows."""


class ApiError(LabError):
    """An answer in vLLM's error shape: `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
