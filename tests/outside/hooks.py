"""What schemathesis has to be told of this API: what lines are in newline-delimited JSON, and that nobody waits for what will not come."""

import json
import os

import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.requests import REQUESTS_TRANSPORT

FINISHED, WAITING = os.environ["RESTIC_MANAGER_JOBS"].split()
QUESTIONS = ("/ls", "/find", "/diff/{other}", "/stats", "/v1/hosts/{host}/snapshots")

text = st.text(max_size=20)
numbers = st.integers(0, 1000) | st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**64, -1])
times = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00+14:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "now"]
)
jobs = st.sampled_from([FINISHED, WAITING]) | st.uuids().map(str)
kinds = st.sampled_from(["backup", "init", "forget", "prune", "check", "unlock", "restore"])
snapshots = st.lists(
    st.fixed_dictionaries(
        {"id": text, "short_id": text, "time": times, "hostname": text, "paths": st.lists(text, max_size=2)},
        optional={"tags": st.lists(text, max_size=2), "size_bytes": numbers},
    ),
    max_size=3,
)

# Each message with the fields that it has to have, all of them of about the right kind.
MESSAGES = {
    "schedule.ack": {"version": numbers, "applied_at": times},
    "config.ack": {"version": numbers, "applied_at": times},
    "schedule.fire": {"schedule_id": text | st.just("data"), "scheduled_at": times, "fired_at": times, "job_id": jobs},
    "command.result": {"job_id": jobs, "accepted": st.booleans(), "error": text},
    "job.started": {"job_id": jobs, "kind": kinds, "started_at": times},
    "job.progress": {"job_id": jobs, "percent_done": st.floats(allow_nan=False, allow_infinity=False), "bytes_done": numbers},
    "job.finished": {
        "job_id": jobs,
        "status": st.sampled_from(["succeeded", "failed", "cancelled", "running"]),
        "finished_at": times,
        "exit_code": numbers,
        "last_log_seq": numbers,
        "stats": st.dictionaries(text, numbers, max_size=3),
    },
    "log.stream": {
        "job_id": jobs,
        "seq": numbers,
        "ts": times,
        "stream": st.sampled_from(["stdout", "stderr", "event"]),
        "payload": st.text(max_size=200),
    },
    "log.dropped": {"from": numbers, "to": numbers},
    "snapshots.report": {"report_id": st.uuids().map(str), "page": numbers, "pages": numbers, "snapshots": snapshots},
    "repo.stats": {"size_bytes": numbers, "snapshot_count": numbers, "dedup_ratio": numbers, "lock_state": text},
    "of.a.later.version": {"x": text},
}


@st.composite
def bodies(draw):
    """Lines that mostly follow on what was acknowledged, which `before_call` adds; now and then one that is no line at all."""
    first = draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
    made = []
    for index in range(draw(st.integers(min_value=1, max_value=4))):
        if draw(st.integers(min_value=0, max_value=19)) == 0:
            made.append(draw(text).encode("utf-8", "replace"))
            continue
        kind = draw(st.sampled_from(sorted(MESSAGES)))
        payload = draw(st.fixed_dictionaries(MESSAGES[kind]))
        envelope = {"seq": first + index, "ts": draw(times), "type": kind, "payload": payload}
        made.append(json.dumps(envelope).encode())
    return b"\n".join(made)


schemathesis.openapi.media_type("application/x-ndjson", bodies())


@REQUESTS_TRANSPORT.serializer("application/x-ndjson")
def lines(ctx, value):
    if isinstance(value, bytes):
        return {"data": value}
    return {"data": (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")}


@schemathesis.deserializer("application/x-ndjson")
def text_of(ctx, response):
    # Not splitlines(): that would take U+0085 within a text for a line's end.
    for line in response.content.split(b"\n"):
        if line:
            json.loads(line)
    return response.content.decode("utf-8")


LINES = ("/v1/agents/{host}/events", "/v1/agents/{host}/jobs/{job}/log")
# How far the server has the events of each host, and each job's log.
acked = {}


def of(case):
    return (case.operation.path, str(case.path_parameters), str((case.query or {}).get("stream")))


def numbered(line, first):
    try:
        envelope = json.loads(line)
        envelope["seq"] += first
    except (ValueError, TypeError, KeyError):
        return line
    return json.dumps(envelope).encode()


@schemathesis.hook
def after_call(ctx, case, response):
    if case.operation.path in LINES and response.status_code == 200:
        acked[of(case)] = response.json()["acked"]


@schemathesis.hook
def before_call(ctx, case, kwargs):
    if isinstance(case.body, bytes) and case.operation.path in LINES:
        case.body = b"\n".join(numbered(line, acked.get(of(case), 0)) for line in case.body.split(b"\n"))
    # The other hosts' agents are still needed.
    if case.method.upper() == "DELETE" and (case.path_parameters or {}).get("host") in ("web-1", "web-2", "web-3"):
        case.path_parameters["host"] = "web-4"
    # A question waits for half a minute where nothing is said of it, and not every host that is tried has an agent to answer it.
    if case.operation.path.endswith(QUESTIONS) and (case.query or {}).get("wait") in (None, ""):
        case.query = {**(case.query or {}), "wait": 1}
    query = case.query
    if not query:
        return
    wait = query.get("wait")
    if isinstance(wait, int) and wait > 1 or isinstance(wait, str) and wait.isdigit() and int(wait) > 1:
        query["wait"] = 1
    # A job of the host without an agent does not end.
    if "follow" in query and (case.path_parameters or {}).get("job") != FINISHED:
        query["follow"] = "0"
