"""What Envoy's own parser knows: its messages, the limits of their values, and since which version each part is there.

::

    extraction    binary → descriptors              (once, by hack/envoy_schema.py)
    catalogue     descriptors → Schema              encode, decode, shapes
    shapes        descriptor → Shape, Field         what a message may hold
    rules         protoc-gen-validate → Rules       what its values must be
    examination   protojson + Shape → Problems      with paths and remedies
"""

from shunter.envoyconf.core.schema.catalogue import Schema, envoy_schema
from shunter.envoyconf.core.schema.examination import Problem, notes, problems

__all__ = ["Problem", "Schema", "envoy_schema", "notes", "problems"]
