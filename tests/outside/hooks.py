"""What schemathesis has to be told of this API: newline-delimited JSON is text, and nobody waits for what will not come."""

import json
import os

import schemathesis
from schemathesis.transport.requests import REQUESTS_TRANSPORT

FINISHED = os.environ["RESTIC_MANAGER_FINISHED_JOB"]


@REQUESTS_TRANSPORT.serializer("application/x-ndjson")
def lines(ctx, value):
    if isinstance(value, (str, bytes)):
        return {"data": value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value}
    return {"data": json.dumps(value).encode("utf-8")}


@schemathesis.deserializer("application/x-ndjson")
def text_of(ctx, response):
    text = response.content.decode("utf-8")
    for line in text.splitlines():
        json.loads(line)
    return text


@schemathesis.hook
def before_call(ctx, case, kwargs):
    query = case.query
    if not query:
        return
    wait = query.get("wait")
    if isinstance(wait, int) and wait > 1 or isinstance(wait, str) and wait.isdigit() and int(wait) > 1:
        query["wait"] = 1
    # A job of the host without an agent does not end.
    if "follow" in query and (case.path_parameters or {}).get("job") != FINISHED:
        query["follow"] = "0"
