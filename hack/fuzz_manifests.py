"""Fuzz target: any text of an endpoints file is a cluster or a ConfigError that names the file."""

from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.documents import read_documents
from shunter.scraper.errors import ConfigError

CORPUS = [
    text.encode()
    for text in (
        """\
endpoints:
- name: a
  address: "10.0.0.1"
  port: "8000"
  labels: {llm-d.ai/engine-type: vllm}
  pool: p
""",
        """\
endpoints: [{name: a, address: '::1', port: 1, metricsHost: 'h:1', engine: x}]
engineConfigs: [{name: x, queuedRequestsSpec: 'q{a=b}'}]
defaultEngine: x
""",
        """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: p}
spec: {selector: {matchLabels: {a: b}}, targetPorts: [{number: 1}]}
""",
        """\
kind: List
items:
- apiVersion: llm-d.ai/v1alpha2
  kind: InferenceObjective
  metadata: {name: o}
  spec: {priority: 1, poolRef: {name: default}}
""",
        """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: r}
spec:
  poolRef: {name: default}
  rules: [{matches: [{model: {value: m}}], targets: [{modelRewrite: n, weight: 1}]}]
""",
        """\
a: &a [x]
b: [*a, *a]
--- !!python/object:os.system
? [k]
: v
""",
    )
]


def target(data):
    message = "file.yaml"
    try:
        assemble(read_documents(message, data))
    except ConfigError as error:
        message = str(error)
    assert message.startswith("file.yaml"), f"the file is not named: {message}"
