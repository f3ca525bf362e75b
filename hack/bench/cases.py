"""What is measured: loads, in which profile, of which subjects."""

import msgspec

__all__ = ["CASES", "DIRECT_BESIDE", "DIRECT_MANY", "IDLE", "STEADY", "STREAMED", "Case", "Load"]

CHUNKS = 100

EVERYBODY = ("none", "shunter-native", "floor", "go-epp")
TRANSPORTS = ("shunter-native", "shunter-grpcio", "floor", "go-epp")
PICKERS = ("shunter-native", "floor", "go-epp")
OURS = ("shunter-native",)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests through Envoy, or, ``direct``, recorded streams straight into the picker."""

    name: str
    prompt_bytes: int = 1 << 10
    prompts: int = 400
    rate: int = 0  # requests a second; 0: each connection or stream as fast as it is answered
    at_once: int = 32  # connections, or streams if direct
    chunks: int | None = None  # of an SSE answer
    interval_ms: int = 0  # between them
    endpoints: int = 10
    direct: bool = False
    users: bool = False  # say in the body whose they are
    beside_bytes: int = 0  # of a prompt that is sent again and again beside the others
    scrape_ms: int | None = None  # between scrapes of an endpoint; else what the subject does by itself


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One group of rows: these subjects in turns."""

    load: Load
    subjects: tuple[str, ...]
    profile: str = "full"
    workers: int = 1
    tls: bool = False
    sockets: bool = False  # in the file system, between Envoy and the picker
    quick: bool = False  # measured with --quick too
    everything: bool = False  # count scrapers and what is done without requests too

    @property
    def name(self) -> str:
        words = [self.load.name, *([] if self.everything else [self.profile])]
        if self.workers > 1:
            words.append(f"{self.workers} workers")
        if self.tls:
            words.append("TLS")
        if self.sockets:
            words.append("sockets")
        return ", ".join(words)


CLOSED = Load(name="1 KB, 32 clients")
STEADY = Load(name="1 KB, 500/s", rate=500, at_once=64)
MEDIUM = Load(name="50 KB, 50/s", prompt_bytes=50_000, prompts=100, rate=50)
LARGE = Load(name="500 KB, 10/s", prompt_bytes=500_000, prompts=20, rate=10, at_once=16)
STREAMED = Load(name="100 SSE chunks, 40/s", rate=40, at_once=256, chunks=CHUNKS, interval_ms=20)
WIDE = Load(name="1 KB, 200/s, 100 endpoints", rate=200, at_once=64, endpoints=100)
DIRECT = Load(name="direct, 1 KB", direct=True)
DIRECT_MEDIUM = Load(name="direct, 50 KB", direct=True, prompt_bytes=50_000, prompts=100, at_once=16)
DIRECT_LARGE = Load(name="direct, 500 KB", direct=True, prompt_bytes=500_000, prompts=20, at_once=4)
DIRECT_STREAMED = Load(name="direct, 100 SSE chunks", direct=True, chunks=CHUNKS)
DIRECT_WIDE = Load(name="direct, 1 KB, 100 endpoints", direct=True, endpoints=100)
DIRECT_BESIDE = Load(name="direct, 1 KB beside 10 MB", direct=True, at_once=1, beside_bytes=10 << 20)
DIRECT_MANY = Load(name="direct, 1 KB, 1,000 endpoints", direct=True, endpoints=1000, scrape_ms=1000)
IDLE = Load(name="idle, 100 endpoints at 50 ms", endpoints=100, scrape_ms=50)

CASES = (
    Case(load=CLOSED, subjects=("none", *TRANSPORTS), quick=True),
    Case(load=CLOSED, subjects=OURS, profile="lean", quick=True),
    Case(load=CLOSED, subjects=OURS, workers=2),
    Case(load=CLOSED, subjects=OURS, sockets=True),
    Case(load=CLOSED, subjects=OURS, profile="lean", sockets=True),
    Case(load=STEADY, subjects=("none", *TRANSPORTS), quick=True),
    Case(load=STEADY, subjects=OURS, profile="lean", quick=True),
    Case(load=STEADY, subjects=OURS, workers=2),
    Case(load=STEADY, subjects=OURS, tls=True, quick=True),
    Case(load=STEADY, subjects=OURS, profile="lean", workers=2),
    Case(load=MEDIUM, subjects=EVERYBODY, quick=True),
    Case(load=MEDIUM, subjects=OURS, profile="lean"),
    Case(load=LARGE, subjects=EVERYBODY, quick=True),
    Case(load=LARGE, subjects=OURS, profile="lean"),
    Case(load=STREAMED, subjects=EVERYBODY, quick=True),
    Case(load=STREAMED, subjects=OURS, profile="lean", quick=True),
    Case(load=STREAMED, subjects=OURS, profile="usage"),
    Case(load=STREAMED, subjects=OURS, tls=True),
    Case(load=WIDE, subjects=EVERYBODY),
    Case(load=DIRECT, subjects=TRANSPORTS, quick=True),
    Case(load=DIRECT, subjects=("shunter-native", "shunter-grpcio"), profile="lean", quick=True),
    Case(load=DIRECT, subjects=OURS, workers=2),
    Case(load=DIRECT_MEDIUM, subjects=TRANSPORTS, quick=True),
    Case(load=DIRECT_LARGE, subjects=PICKERS, quick=True),
    Case(load=DIRECT_STREAMED, subjects=TRANSPORTS, quick=True),
    Case(load=DIRECT_WIDE, subjects=PICKERS, quick=True),
    Case(load=DIRECT_BESIDE, subjects=("shunter-native", "floor"), quick=True),
    Case(load=DIRECT_MANY, subjects=("shunter-native", "floor")),
    Case(load=IDLE, subjects=PICKERS, quick=True),
)
