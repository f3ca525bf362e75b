"""Takes the spans of everybody in a stack, and keeps the last ones in a file that viewers read."""

__all__ = ["FILE", "OLDER"]

# In the stack's directory: a line of OTLP JSON for each batch, as OpenTelemetry's file exporters write it; and the one before.
FILE = "traces.jsonl"
OLDER = "traces.1.jsonl"
