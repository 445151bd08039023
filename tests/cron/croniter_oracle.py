"""Answers when crontab expressions are due, by croniter: an independent opinion for tests/cron/main.rs.

Reads {"cases": [{"expression", "zone", "after", "until", "more"}]} from stdin, instants as Unix seconds; writes
{"version", "due": [[...] or null]}: all due instants in (after, until] and `more` beyond, or null for an error.
"""

import datetime
import importlib.metadata
import json
import sys
import zoneinfo

import croniter


def due(case):
    start = datetime.datetime.fromtimestamp(case["after"], tz=zoneinfo.ZoneInfo(case["zone"]))
    # Its name for Debian's rule that a day field beginning with * is not restricted.
    iterator = croniter.croniter(case["expression"], start, implement_cron_bug=True)
    found, beyond = [], 0
    try:
        while beyond < case["more"]:
            found.append(int(iterator.get_next(float)))
            beyond += found[-1] > case["until"]
    except croniter.CroniterBadDateError:
        return None
    return found


cases = json.load(sys.stdin)["cases"]
json.dump({"version": importlib.metadata.version("croniter"), "due": [due(case) for case in cases]}, sys.stdout)
