//! A fleet of many hosts with ninety days of history, written with the server's own journal, so that it is what a server would have left.
//! Some of them have something wrong. Made up, and the same each time but for the day it begins.

use std::path::Path;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};

use restic_manager::id::{HostName, ScheduleId, job_id_of_fire};
use restic_manager::job::{Actor, ActorKind};
use restic_manager::journal::Journal;
use restic_manager::protocol::Envelope;
use restic_manager::server::alert::{AlertKind, AlertRaised};
use restic_manager::server::fact::{Fact, JobDispatched, JobQueued, agent_line};
use restic_manager::server::host_state::HostState;

use crate::harness::Fleet;

const DAYS: i64 = 90;
const STREAM: &str = "22222222-2222-4222-8222-222222222222";

/// Hosts beside web-1, which the harness has.
fn names() -> Vec<String> {
    let rows = [("web", 2..13), ("db", 1..9), ("mail", 1..4), ("files", 1..7), ("laptop", 1..12)];
    rows.into_iter().flat_map(|(kind, range)| range.map(move |n| format!("{kind}-{n}"))).collect()
}

/// What ended a made-up job otherwise than well.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Well,
    Incomplete,
    Failed,
}

/// Writes the files of the fleet; the server is not running.
pub(crate) fn write(fleet: &Fleet) {
    let now = restic_manager::clock::now();
    write_host(fleet, "web-1", 0, now);
    for (index, name) in (1..).zip(names()) {
        let settings = format!(
            "repository = \"main\"\ntimezone = \"Europe/Berlin\"\n[[schedule]]\nid = \"data\"\nkind = \"backup\"\ncron = \"{} 3 * * *\"\npaths = [\"/srv\", \"/home\"]\nmax_age = \"26h\"\nretention = {{ keep_daily = 14 }}\n\
            [[schedule]]\nid = \"system\"\nkind = \"backup\"\ncron = \"30 */6 * * *\"\npaths = [\"/etc\"]\nretention = {{ keep_daily = 7 }}\n",
            index % 60
        );
        fleet.write(&format!("config/hosts/{name}.toml"), &settings);
        fleet.write(&format!("secrets/{name}"), "another-password");
        // One is new and has no agent yet.
        if name != "laptop-11" {
            write_host(fleet, &name, index, now);
        }
    }
}

fn write_host(fleet: &Fleet, name: &str, index: usize, now: DateTime<Utc>) {
    let dir = fleet.path(&format!("state/hosts/{name}"));
    let mut writer = Writer::open(&dir.join("journal"), name, index);
    writer.begin(now - TimeDelta::days(DAYS));
    for day in (0..DAYS).rev() {
        let date = (now - TimeDelta::days(day)).date_naive();
        for (schedule, hours) in [("data", &[2][..]), ("system", &[1, 7, 13, 19])] {
            for hour in hours {
                let at = date.and_time(NaiveTime::from_hms_opt(*hour, 30, 0).expect("a time")).and_utc();
                if at < now - TimeDelta::minutes(30) && !(name == "web-1" && schedule == "system") {
                    writer.backup(schedule, at, ending(index, day, schedule, *hour));
                }
            }
        }
    }
    writer.finish(now);
    let snapshots: Vec<Value> = (0..14).map(|day| snapshot(name, index, now - TimeDelta::days(day))).collect();
    let file = json!({"report_id": STREAM, "pages": 1, "have": 1, "snapshots": snapshots});
    std::fs::write(dir.join("snapshots.json"), file.to_string()).expect("written");
    // Those with an odd name are heard at the moment, but for some.
    let silent = matches!(name, "laptop-3" | "laptop-7" | "db-4");
    let seen = dir.join("seen");
    std::fs::write(&seen, "{\"poll_wait_secs\":300}\n").expect("written");
    let file = std::fs::File::options().write(true).open(seen).expect("there");
    let ago = if silent { 50 * 3600 } else { 0 };
    file.set_modified((now - TimeDelta::seconds(ago)).into()).expect("set");
}

fn snapshot(host: &str, index: usize, at: DateTime<Utc>) -> Value {
    let id = format!("{:08x}{}", at.timestamp() + i64::try_from(index).expect("small"), "0".repeat(56));
    json!({
        "id": id, "short_id": &id[..8], "time": at, "hostname": host, "paths": ["/srv", "/home"],
        "tags": ["schedule:data", "linux"], "size_bytes": 12_884_901_888u64, "file_count": 20431,
    })
}

/// Few fail, and some hosts more than others.
fn ending(index: usize, day: i64, schedule: &str, hour: u32) -> Ending {
    let dice = (index as u64 * 7919 + u64::try_from(day).expect("positive") * 104_729 + u64::from(hour) * 31) % 97;
    match (index, day, schedule) {
        (5 | 17, 0..2, "data") => Ending::Failed,
        (9, 0, "data") => Ending::Incomplete,
        _ if dice == 0 => Ending::Failed,
        _ if dice == 1 => Ending::Incomplete,
        _ => Ending::Well,
    }
}

struct Writer {
    journal: Journal<HostState>,
    host: HostName,
    index: usize,
    seq: u64,
    lines: Vec<(DateTime<Utc>, restic_manager::journal::line::NewLine)>,
}

impl Writer {
    fn open(dir: &Path, name: &str, index: usize) -> Self {
        let journal = Journal::<HostState>::open(dir).expect("a journal");
        Self { journal, host: name.parse().expect("a name"), index, seq: 0, lines: Vec::new() }
    }

    fn fact(&mut self, at: DateTime<Utc>, fact: &Fact) {
        self.lines.push((at, fact.to_new_line(at)));
    }

    fn agents(&mut self, at: DateTime<Utc>, kind: &str, payload: &Value) {
        self.seq += 1;
        let envelope = Envelope::new(self.seq, at, kind, payload).expect("an envelope");
        self.lines.push((at, agent_line(STREAM.parse().expect("an id"), &envelope)));
    }

    fn begin(&mut self, at: DateTime<Utc>) {
        let enrolled = json!({"enrollment_id": STREAM, "token_sha256": "", "credential_sha256": ""});
        self.fact(at, &Fact::HostEnrolled(serde_json::from_value(enrolled).expect("a fact")));
        let os = if self.host.as_str().starts_with("laptop") { "windows" } else { "linux" };
        let hello = json!({
            "protocol_version": 1, "agent_version": "0.1.0", "restic_version": "0.18.0", "os": os, "arch": "amd64", "instance_id": STREAM,
            "hostname": self.host, "stream": STREAM, "timezone": "Europe/Berlin",
        });
        self.fact(at, &Fact::Hello(serde_json::from_value(hello).expect("a hello")));
        for kind in ["schedule.ack", "config.ack"] {
            self.agents(at, kind, &json!({"version": 1, "applied_at": at}));
        }
    }

    fn backup(&mut self, schedule: &str, at: DateTime<Utc>, ending: Ending) {
        let schedule: ScheduleId = schedule.parse().expect("an id");
        let job_id = job_id_of_fire(&self.host, &schedule, at);
        let age = u64::try_from((at.timestamp() / 86_400) % 400).expect("positive");
        let size = (3 + self.index as u64) * 1_500_000_000 + age * 31_000_000;
        let seconds = 40 + i64::try_from(age % 23 + self.index as u64 % 60).expect("small");
        let actor = Actor { kind: ActorKind::Schedule, name: schedule.to_string() };
        self.fact(
            at,
            &Fact::JobQueued(JobQueued {
                job_id,
                kind: "backup".parse().expect("a kind"),
                options: json!({"paths": ["/srv", "/home"], "tags": ["linux"]}),
                actor,
                schedule_id: Some(schedule),
                scheduled_at: Some(at),
                idempotency: None,
                repository: None,
                part_of: None,
                take_by: None,
            }),
        );
        self.fact(at, &Fact::JobDispatched(JobDispatched { job_id, expires_at: at + TimeDelta::hours(1) }));
        self.agents(at, "command.result", &json!({"job_id": job_id, "accepted": true}));
        self.agents(at, "job.started", &json!({"job_id": job_id, "kind": "backup", "started_at": at}));
        let end = at + TimeDelta::seconds(seconds);
        let mut finished = json!({"job_id": job_id, "status": "succeeded", "exit_code": 0, "finished_at": end, "stats": {
            "files_new": 12, "files_changed": 3, "files_unmodified": 20431, "total_files_processed": 20446, "data_added": 40_000_000 + age * 900_000,
            "data_added_packed": 30_000_000 + (age * 7919 % 31) * 900_000, "total_bytes_processed": size, "total_duration": seconds, "snapshot_id": "deadbeef",
        }});
        match ending {
            Ending::Well => {}
            Ending::Incomplete => {
                finished["incomplete"] = true.into();
                finished["warnings"] = json!(["open /srv/app/.cache/lock: permission denied"]);
                finished["exit_code"] = 3.into();
            }
            Ending::Failed => {
                finished["status"] = "failed".into();
                finished["error"] =
                    "Fatal: unable to open repository at rest:https://backup.example.org/main: connection refused"
                        .into();
                finished["exit_code"] = 1.into();
            }
        }
        self.agents(end, "job.finished", &finished);
    }

    fn finish(mut self, now: DateTime<Utc>) {
        let at = now - TimeDelta::minutes(20);
        let size = (20 + self.index as u64 * 3) * 1_000_000_000;
        let check = at - TimeDelta::days(3);
        self.agents(
            at,
            "repo.stats",
            &json!({"size_bytes": size, "snapshot_count": 104, "last_check_at": check, "last_check_status": "succeeded", "lock_state": "unlocked"}),
        );
        if matches!(self.index, 5 | 9 | 17) {
            let (kind, text) = if self.index == 9 {
                (
                    AlertKind::BackupIncomplete,
                    "open /srv/app/.cache/lock: permission denied \u{202e}gpj.exe <script>alert(1)</script>",
                )
            } else {
                (
                    AlertKind::BackupFailed,
                    "Fatal: unable to open repository at rest:https://backup.example.org/main: connection refused",
                )
            };
            let alert_id = uuid::Uuid::from_u128(self.index as u128 + 1).to_string().parse().expect("an id");
            let raised = AlertRaised {
                alert_id,
                kind,
                schedule_id: Some("data".parse().expect("an id")),
                job_id: None,
                text: text.to_owned(),
            };
            self.fact(at, &Fact::AlertRaised(raised));
        }
        self.lines.sort_by_key(|(at, _)| *at);
        for batch in self.lines.chunks(5000) {
            let mut open = self.journal.begin(batch[0].0).expect("a batch");
            for (at, line) in batch {
                open.append(*at, line);
            }
            open.commit().expect("durable");
        }
    }
}
