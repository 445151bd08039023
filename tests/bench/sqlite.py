"""SQLite as the benchmarks' reference.

events DB SECONDS: one event a transaction, durable (WAL, synchronous=FULL): {"per_second"}
history DB EVENTS QUERIES: the last 50 jobs of a host with so many events, by an index; the file is kept: {"p50_ms"}
"""

import json
import os
import sqlite3
import sys
import time

TABLE = (
    "CREATE TABLE IF NOT EXISTS event (host TEXT, seq INTEGER, ts TEXT, type TEXT, job TEXT, payload TEXT,"
    " PRIMARY KEY (host, seq)) WITHOUT ROWID"
)
FILL = "x" * 180


def connect(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(TABLE)
    return database


def events(path, seconds):
    database = connect(path)
    insert = "INSERT INTO event VALUES (?, ?, ?, 'repo.stats', NULL, ?)"
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        count += 1
        database.execute(insert, (f"h{count % 1000:05}", count, "2026-11-25T04:10:00.123456Z", FILL))
    return {"per_second": count / (time.monotonic() - began)}


def history(path, count, queries):
    if not os.path.exists(path):
        database = connect(path + ".new")
        database.execute("CREATE INDEX queued ON event (host, seq DESC) WHERE type = 'job.queued'")
        database.execute("CREATE INDEX ended ON event (job, type)")
        kinds = ["job.queued", "job.dispatched", "command.result", "job.started", "job.finished"]
        rows = (
            ("h00000", n, "2026-11-25T04:10:00.123456Z", kinds[n % 5], f"{n // 5:08}-0000-4000-8000-000000000000", FILL)
            for n in range(count)
        )
        database.execute("BEGIN")
        database.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        os.rename(path + ".new", path)
    database = connect(path)
    query = (
        "SELECT q.job, q.payload, f.payload FROM event q LEFT JOIN event f ON f.job = q.job AND f.type = 'job.finished'"
        " WHERE q.host = ? AND q.type = 'job.queued' ORDER BY q.seq DESC LIMIT 50"
    )
    times = []
    for _ in range(queries + 5):
        began = time.perf_counter()
        rows = database.execute(query, ("h00000",)).fetchall()
        times.append(time.perf_counter() - began)
        assert len(rows) == 50, len(rows)
    return {"p50_ms": sorted(times[5:])[queries // 2] * 1000}


if sys.argv[1] == "events":
    print(json.dumps(events(sys.argv[2], float(sys.argv[3]))))
else:
    print(json.dumps(history(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
