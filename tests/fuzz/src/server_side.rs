//! What reaches the server: requests, events, hellos, configurations, and its own files after damage.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use restic_manager::id::{HostName, InstanceId, JobId, ScheduleId, StreamId};
use restic_manager::journal::Fold as _;
use restic_manager::journal::line::{self, Line, NewLine, Piece};
use restic_manager::protocol::agent_event::{AgentEvent, Hello};
use restic_manager::protocol::schedule::Schedule;
use restic_manager::protocol::{Cursor, negotiate_version};
use restic_manager::server::decide::decide_fire;
use restic_manager::server::fact::{Fact, agent_line};
use restic_manager::server::fleet::load::load;
use restic_manager::server::host_content::HostContent;
use restic_manager::server::host_state::HostState;
use restic_manager::server::http::agent::envelopes;
use restic_manager::server::http::request::{parse_query, shown};
use restic_manager::server::settle::{decide_finished, decide_hello, decide_started};
use restic_manager::server::view::{Contact, host_view, job_view};
use serde_json::json;

use crate::noon;

/// A request's query, and what stands in paths.
pub fn request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (name, value) in parse_query(&text) {
        for part in [&name, &value] {
            assert!(!shown(part).chars().any(char::is_control), "{part:?} can be shown");
            let _ = (part.parse::<u64>(), part.parse::<HostName>(), part.parse::<ScheduleId>());
            let _ = (part.parse::<JobId>(), part.parse::<InstanceId>(), part.parse::<StreamId>());
            let _ = part.parse::<DateTime<Utc>>();
            if let Ok(cursor) = part.parse::<Cursor>() {
                assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
    }
}

fn host() -> HostName {
    "web-1".parse().expect("a name")
}

fn content() -> HostContent {
    let schedule: Schedule = serde_json::from_value(
        json!({"id": "data", "kind": "backup", "cron_expr": "0 3 * * *", "paths": ["/data"], "enabled": true}),
    )
    .expect("a schedule");
    HostContent {
        schedules: [schedule].into(),
        schedule_hash: "s".into(),
        config: Default::default(),
        config_hash: "c".into(),
        alarms: Default::default(),
        absence: Default::default(),
        pings: Default::default(),
        commit: None,
        adopted_at: None,
        dirty: None,
        maintains: None,
        agent_update: None,
        configured: true,
        repository: None,
    }
}

/// A journal in memory: every line that is written must be read again as it was.
#[derive(Default)]
struct Written {
    state: HostState,
    seq: u64,
}

impl Written {
    fn add(&mut self, new: &NewLine) {
        self.seq += 1;
        let (bytes, crc) = line::encode(self.seq, noon(), new);
        let text = bytes.strip_suffix(b"\n").expect("a line ends");
        assert!(!text.contains(&b'\n'), "it is one line");
        let read: Line = line::decode(text).expect("what is written can be read");
        assert_eq!((read.seq, read.crc, &read.kind, read.stream), (self.seq, crc, &new.kind, new.stream.map(|s| s.0)));
        self.state.apply(&read);
    }

    fn add_facts(&mut self, facts: impl IntoIterator<Item = Fact>) {
        for fact in facts {
            self.add(&fact.to_new_line(noon()));
        }
    }

    /// What operators see, and what a restart begins with, can be made and read.
    fn check(&self) {
        let contact = Contact::default();
        let mut views = vec![host_view(&host(), &self.state, Some(&content()), &contact, noon())];
        views.extend(
            self.state.jobs.values().chain(&self.state.recent).map(|job| job_view(&host(), job, None, true, None)),
        );
        let list = json!({ "jobs": views }).to_string();
        serde_json::from_str::<serde_json::Value>(&list).expect("a list can be read");
        let carried = serde_json::to_string(&json!({"previous": null, "state": self.state})).expect("a state is JSON");
        serde_json::from_str::<serde_json::Value>(&carried).expect("a state can be read");
        serde_json::from_str::<HostState>(&serde_json::to_string(&self.state).expect("JSON")).expect("and is one");
    }
}

/// The body of an agent's events, through all that becomes of them.
pub fn events(data: &[u8]) {
    let Ok(envelopes) = envelopes(data) else { return };
    let (host, content, stream) = (host(), content(), StreamId(Default::default()));
    let mut journal = Written::default();
    for (seq, mut envelope) in (1..).zip(envelopes) {
        envelope.seq = seq;
        let Ok(event) = AgentEvent::from_envelope(&envelope) else { return };
        let facts = match &event {
            Some(AgentEvent::ScheduleFire(fire)) => {
                decide_fire(&host, &journal.state, Some(&content), fire, noon(), false)
            }
            Some(AgentEvent::JobStarted(started)) => {
                decide_started(&journal.state, started, false).into_iter().collect()
            }
            Some(AgentEvent::JobFinished(finished)) => {
                decide_finished(&journal.state, finished, false).into_iter().collect()
            }
            _ => Vec::new(),
        };
        journal.add_facts(facts);
        journal.add(&agent_line(stream, &envelope));
    }
    journal.check();
}

/// A hello.
pub fn hello(data: &[u8]) {
    let Ok(hello) = serde_json::from_slice::<Hello>(data) else { return };
    let _ = negotiate_version(hello.protocol_version);
    let mut journal = Written::default();
    for _ in 0..2 {
        journal.add_facts(decide_hello(&journal.state.clone(), &hello, noon()));
    }
    assert!(decide_hello(&journal.state, &hello, noon()).is_empty(), "said twice it is no news");
    journal.check();
}

/// A host's journal as it may lie on a disk. The first byte says whether the lines get their checksums, which no fuzzer guesses.
pub fn journal(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if mode % 2 == 1 {
        bytes.clear();
        for body in data.split(|byte| *byte == b'\n') {
            bytes.extend(body);
            bytes.extend(format!(",\"crc\":\"{:08x}\"}}\n", crc(body)).bytes());
        }
    }
    let mut state = HostState::default();
    let mut at = 0;
    for piece in line::pieces(&bytes) {
        let (offset, len) = match &piece {
            Piece::Line { offset, len, .. } | Piece::Damaged { offset, len } => (*offset, *len),
        };
        assert!(offset == at && len > 0, "pieces lie one behind the other");
        at += len;
        let Piece::Line { line, .. } = piece else { continue };
        if let Some(peek) = line::peek(&bytes[offset..offset + len - 1]) {
            assert_eq!((peek.seq, peek.kind), (line.seq, line.kind.as_str()), "two readers agree");
        }
        let _ = Fact::from_line(&line);
        state.apply(&line);
    }
    assert_eq!(at, bytes.len(), "nothing is left out");
}

/// CRC-32C, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// The files of a configuration, one after the other with NUL between them.
pub fn fleet(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let names = ["server.toml", "hosts/web-1.toml", "groups/all.toml", "repositories/main.toml"];
    let files: BTreeMap<String, String> =
        names.iter().map(|name| (*name).to_owned()).zip(text.split('\0').map(str::to_owned)).collect();
    let (_, problems) = load(&files);
    for problem in problems {
        let _ = problem.to_string();
    }
}
