"""Reads one OTLP request body from stdin with OpenTelemetry's own classes and prints what they make of it as JSON. Anything
that they do not know is an error."""

import json
import sys

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

body = sys.stdin.buffer.read()
request = ExportTraceServiceRequest.FromString(body)
known = ExportTraceServiceRequest.FromString(body)
known.DiscardUnknownFields()
if known.SerializeToString(deterministic=True) != request.SerializeToString(deterministic=True):
    sys.exit("there are fields that OTLP does not have")
json.dump(MessageToDict(request), sys.stdout)
