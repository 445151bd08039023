//! The agent's spool against the server's journal, with any order of crashes, lost requests, lost answers and resends.
//!
//! The server is the real one from `events_in` down to the files; a crash reopens them, with any part of what was not
//! acknowledged cut off. The agent is a model: a list of envelopes that grows, of which it forgets only what was acknowledged.
#![allow(clippy::disallowed_methods, reason = "tests make scratch files as they like")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use restic_manager::id::{HostName, InstanceId, JobId, ScheduleId, StreamId, job_id_of_fire};
use restic_manager::job::{Actor, ActorKind};
use restic_manager::journal::line::Line;
use restic_manager::journal::read::{self, Next};
use restic_manager::journal::segment::Carry;
use restic_manager::journal::{Head, Journal};
use restic_manager::protocol::Envelope;
use restic_manager::protocol::agent_event::Hello;
use restic_manager::protocol::command::CommandRun;
use restic_manager::server::alert_rules::Absence;
use restic_manager::server::decide::{JobDecision, JobRequest};
use restic_manager::server::decide::{decide_cancel, decide_job, decide_tick};
use restic_manager::server::events_in;
use restic_manager::server::fact::{Fact, agent_line};
use restic_manager::server::history;
use restic_manager::server::host::{Host, append_facts};
use restic_manager::server::host_content::HostContent;
use restic_manager::server::host_state::HostState;
use restic_manager::server::messages::{PollQuestion, poll_answer};
use restic_manager::server::servers::Servers;
use restic_manager::server::settle::decide_hello;
use restic_manager::server::slot::{Shared, Slot, line_time};
use restic_manager::server::versions::decide_versions;
use serde_json::{Value, json};
use uuid::Uuid;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// The agent's cron: schedule and minute; also one that was fired before, as after a lost ledger.
    Fire {
        schedule: usize,
        minute: u8,
    },
    /// The agent starts, or ends, the job that it took this long ago.
    Start {
        which: usize,
    },
    Finish {
        which: usize,
        ok: bool,
    },
    /// The agent sends what only the server may say.
    Forge {
        kind: usize,
        which: usize,
    },
    /// The agent runs a fire by itself.
    StartOffline {
        minute: u8,
    },
    /// The agent posts: from before what is acknowledged, so many at most.
    Post {
        overlap: usize,
        most: usize,
        fate: Fate,
    },
    /// The agent asks for commands and takes them in.
    Poll {
        fate: Fate,
    },
    Operator,
    Cancel,
    Tick,
    /// The server ends and starts again.
    Restart,
    /// The agent ends and starts again, with all that is in its files.
    AgentRestart,
    /// The journal goes on in a new segment.
    NextMonth,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    RequestLost,
    /// The server has it, the agent does not know.
    AnswerLost,
    /// The server crashes before it acknowledges: this share (of 256) of the batch's bytes is on disk.
    Torn(u8),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::RequestLost),
        2 => Just(Fate::AnswerLost),
        2 => any::<u8>().prop_map(Fate::Torn),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..6u8).prop_map(|(schedule, minute)| Step::Fire { schedule, minute }),
        3 => (0..4usize).prop_map(|which| Step::Start { which }),
        3 => (0..4usize, any::<bool>()).prop_map(|(which, ok)| Step::Finish { which, ok }),
        1 => (0..FORGED.len(), 0..4usize).prop_map(|(kind, which)| Step::Forge { kind, which }),
        1 => (0..6u8).prop_map(|minute| Step::StartOffline { minute }),
        6 => (0..4usize, 1..8usize, fate()).prop_map(|(overlap, most, fate)| Step::Post { overlap, most, fate }),
        4 => fate().prop_map(|fate| Step::Poll { fate }),
        1 => Just(Step::Operator),
        1 => Just(Step::Cancel),
        1 => Just(Step::Tick),
        1 => Just(Step::Restart),
        1 => Just(Step::AgentRestart),
        1 => Just(Step::NextMonth),
    ]
}

/// The server's own types, whose lines an agent must not be able to write.
const FORGED: [&str; 4] = ["job.queued", "job.expired", "schedule.versioned", "segment.opened"];
const SCHEDULES: [&str; 3] = ["system", "home", "db"];

fn start_of_time() -> DateTime<Utc> {
    "2026-11-23T02:00:00Z".parse().expect("an instant")
}

fn host_name() -> HostName {
    "web-1".parse().expect("a host name")
}

fn content() -> HostContent {
    let schedules = SCHEDULES.map(|id| {
        let value = json!({"id": id, "kind": "backup", "cron_expr": "* * * * *", "paths": ["/etc"], "enabled": true});
        serde_json::from_value(value).expect("a schedule")
    });
    HostContent {
        schedules: schedules.into(),
        schedule_hash: "s".to_owned(),
        config: Arc::new(
            serde_json::from_value(json!({"version": 0, "hash": "", "repo_url": "/srv/repo"})).expect("settings"),
        ),
        config_hash: "c".to_owned(),
        alarms: Arc::default(),
        absence: Absence::default(),
        pings: Arc::default(),
        commit: None,
        dirty: None,
        adopted_at: None,
        maintains: None,
        configured: true,
        agent_update: None,
        repository: None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Accepted,
    Started,
    Finished,
}

/// What an agent has on disk.
struct Agent {
    spool: Vec<Envelope>,
    acked: u64,
    cursor: String,
    /// Every command and what became of it, in the order in which they came.
    ledger: Vec<(JobId, Stage)>,
    instance: u64,
}

impl Agent {
    fn say(&mut self, kind: &str, payload: &Value) {
        let seq = self.spool.len() as u64 + 1;
        // Nanoseconds, as real clocks give them: the journal keeps microseconds.
        let ts = start_of_time() + TimeDelta::nanoseconds(1_000_000_001 * i64::try_from(seq).expect("small"));
        self.spool.push(Envelope::new(seq, ts, kind, payload).expect("JSON"));
    }

    fn take(&mut self, job_id: JobId) {
        if self.ledger.iter().all(|(known, _)| *known != job_id) {
            self.ledger.push((job_id, Stage::Accepted));
        }
        self.say("command.result", &json!({"job_id": job_id, "accepted": true}));
    }

    /// The `which`th job that is at a stage moves on.
    fn advance(&mut self, which: usize, from: Stage, to: Stage) -> Option<JobId> {
        let (id, stage) = self.ledger.iter_mut().filter(|(_, stage)| *stage == from).nth(which)?;
        *stage = to;
        Some(*id)
    }

    fn hello(&self) -> Hello {
        // Every job whose end the server has not acknowledged.
        let unacknowledged = |id: &JobId| {
            let of_job = |e: &&Envelope| e.kind == "job.finished" && e.payload.get().contains(&id.to_string());
            self.spool.iter().find(of_job).is_none_or(|e| e.seq > self.acked)
        };
        let running: Vec<JobId> = self.ledger.iter().map(|(id, _)| *id).filter(unacknowledged).collect();
        let instance = InstanceId(Uuid::from_u64_pair(1, self.instance));
        serde_json::from_value(json!({"protocol_version": 1, "agent_version": "0", "hostname": "web-1", "os": "linux",
            "arch": "amd64", "instance_id": instance, "stream": stream(), "running_jobs": running}))
        .expect("a hello")
    }
}

fn stream() -> StreamId {
    StreamId(Uuid::from_u64_pair(2, 2))
}

/// The server as it runs: everything but the files is lost by `reopen`.
struct Server {
    _keep: tempfile::TempDir,
    journal_dir: PathBuf,
    journal: Journal<HostState>,
    host: Host,
    /// Moves the journal's months.
    now: DateTime<Utc>,
    /// The positive control: events are appended without looking at what is there.
    without_dedup: bool,
}

fn without_lines(state: &HostState) -> HostState {
    HostState { lines: std::collections::VecDeque::new(), ..state.clone() }
}

/// The newest segment and its length.
fn newest(dir: &Path) -> (PathBuf, u64) {
    let name = read::segments(dir).expect("segments").pop().expect("a segment");
    let path = dir.join(name.to_string());
    let len = fs::metadata(&path).expect("a segment").len();
    (path, len)
}

impl Server {
    fn new(without_dedup: bool) -> Self {
        let keep = tempfile::tempdir().expect("a temporary directory");
        let host_dir = keep.path().join("web-1");
        fs::create_dir(&host_dir).expect("the host's directory");
        // `Host` wants a slot; what is written goes through `journal`, so that a test decides when it ends.
        let shared = Arc::new(Shared::new(Servers::enter(keep.path()).expect("a server")));
        let slot = Slot::open("unused", &keep.path().join("unused"), shared);
        let host = Host::new(host_name(), &host_dir, slot.expect("a slot"));
        let journal_dir = host.journal_dir();
        let journal = Journal::open(&journal_dir).expect("a journal");
        Self { _keep: keep, journal_dir, journal, host, now: start_of_time(), without_dedup }
    }

    /// Ends and starts again; what was known before must be known after.
    fn reopen(&mut self) {
        let (before, head) = (without_lines(self.journal.state()), self.journal.head());
        self.journal = Journal::open(&self.journal_dir).expect("the journal again");
        assert_eq!(without_lines(self.journal.state()), before, "a restart changes nothing");
        let now = self.journal.head();
        assert_eq!((now.seq, now.crc), (head.seq, head.crc));
    }

    /// Crashes within a batch that was not acknowledged, of which a share of the bytes is on disk.
    fn tear(&mut self, file: &Path, from: u64, share: u8) {
        let len = fs::metadata(file).expect("the segment").len();
        let keep = from + (len - from) * u64::from(share) / 256;
        fs::OpenOptions::new().write(true).open(file).and_then(|f| f.set_len(keep)).expect("the tear");
        self.journal = Journal::open(&self.journal_dir).expect("the torn journal");
        self.reopen();
    }

    /// Runs a batch to the fate's end; true when the answer reached the agent.
    fn batch<R>(
        &mut self,
        fate: Fate,
        work: impl FnOnce(&mut restic_manager::journal::Batch<'_, HostState>, &Host, bool) -> R,
    ) -> Option<R> {
        if matches!(fate, Fate::RequestLost) {
            return None;
        }
        // A batch may begin with a new segment, which is durable before its lines are.
        drop(self.journal.begin(self.now).expect("begin"));
        let (file, from) = newest(&self.journal_dir);
        let mut batch = self.journal.begin(self.now).expect("begin");
        let result = work(&mut batch, &self.host, self.without_dedup);
        batch.commit().expect("commit");
        match fate {
            Fate::Torn(share) => {
                self.tear(&file, from, share);
                None
            }
            Fate::Answered => Some(result),
            _ => None,
        }
    }

    fn facts(&mut self, fate: Fate, decide: impl FnOnce(&HostState, DateTime<Utc>) -> Vec<Fact>) -> bool {
        self.batch(fate, |batch, _, _| append_facts(batch, decide)).is_some()
    }

    fn greet(&mut self, hello: &Hello) -> u64 {
        self.facts(Fate::Answered, |state, now| decide_hello(state, hello, now));
        self.journal.state().streams.get(&stream()).map_or(0, |mark| mark.seq)
    }

    fn history(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        read::oldest_first(&self.journal_dir, None, |line| {
            lines.push(line);
            Next::Continue
        })
        .expect("history");
        lines
    }
}

fn post(server: &mut Server, agent: &mut Agent, overlap: usize, most: usize, fate: Fate) {
    let from = usize::try_from(agent.acked).expect("small").saturating_sub(overlap);
    let envelopes: Vec<Envelope> = agent.spool.iter().skip(from).take(most.max(overlap + 1)).cloned().collect();
    let answer = server.batch(fate, |batch, host, without_dedup| {
        if without_dedup {
            for envelope in &envelopes {
                batch.append(line_time(), &agent_line(stream(), envelope));
            }
            return envelopes.last().map_or(0, |e| e.seq);
        }
        let content = content();
        // Nobody completes the index here: what memory has forgotten is read.
        let indexed_since = DateTime::<Utc>::MAX_UTC;
        let is_of_another = |_| false;
        let (content, stream) = (Some(&content), stream());
        let source = events_in::Source { host, content, stream, indexed_since, is_of_another: &is_of_another };
        match events_in::take(batch, &source, &envelopes) {
            Ok(acked) => acked,
            Err(problem) => unreachable!("an agent that resends is never refused: {problem:?}"),
        }
    });
    if let Some(acked) = answer {
        agent.acked = agent.acked.max(acked);
    }
}

fn poll(server: &Server, agent: &mut Agent, fate: Fate) {
    let epoch = restic_manager::id::Epoch(Uuid::from_u64_pair(3, 3));
    let question =
        PollQuestion { after: agent.cursor.parse().ok(), is_known: false, schedule_version: 1, config_version: 1 };
    let head: Head = server.journal.head();
    let answer = poll_answer(server.journal.state(), head, Some(&content()), epoch, &question, start_of_time());
    if !matches!(fate, Fate::Answered) {
        return;
    }
    for message in answer.messages.iter().filter(|message| message.kind == CommandRun::TYPE) {
        let command: CommandRun = serde_json::from_str(message.payload.get()).expect("a command");
        agent.take(command.job_id);
    }
    agent.cursor = answer.cursor;
}

fn take_step(server: &mut Server, agent: &mut Agent, number: u64, step: &Step) {
    match step {
        Step::Fire { schedule, minute } => {
            let schedule_id: ScheduleId = SCHEDULES[*schedule].parse().expect("an id");
            let due = start_of_time() + TimeDelta::minutes(i64::from(*minute));
            let job_id = job_id_of_fire(&host_name(), &schedule_id, due);
            let fire = json!({"schedule_id": schedule_id, "scheduled_at": due, "fired_at": due, "job_id": job_id});
            agent.say("schedule.fire", &fire);
        }
        Step::Start { which } => {
            if let Some(job_id) = agent.advance(*which, Stage::Accepted, Stage::Started) {
                agent.say("job.started", &json!({"job_id": job_id, "kind": "backup", "started_at": start_of_time()}));
            }
        }
        Step::Finish { which, ok } => {
            if let Some(job_id) = agent.advance(*which, Stage::Started, Stage::Finished) {
                let status = if *ok { "succeeded" } else { "failed" };
                let stats = json!({"total_duration": 1.0 / 3.0, "files_new": 7});
                let finished = json!({"job_id": job_id, "status": status, "exit_code": 0,
                    "finished_at": start_of_time(), "stats": stats});
                agent.say("job.finished", &finished);
            }
        }
        Step::Forge { kind, which } => {
            let job = agent.ledger.get(*which).map_or(JobId(Uuid::nil()), |(id, _)| *id);
            // Fields for each of them.
            let payload = json!({"job_id": job, "kind": "backup", "options": {}, "state": {}, "version": 99, "hash": "x",
                "actor": {"kind": "operator", "name": "nobody"}});
            agent.say(FORGED[*kind], &payload);
        }
        Step::StartOffline { minute } => {
            let schedule_id: ScheduleId = SCHEDULES[0].parse().expect("an id");
            let due = start_of_time() + TimeDelta::minutes(i64::from(*minute));
            let job_id = job_id_of_fire(&host_name(), &schedule_id, due);
            if agent.ledger.iter().all(|(known, _)| *known != job_id) {
                agent.ledger.push((job_id, Stage::Started));
                let started = json!({"job_id": job_id, "kind": "backup", "started_at": start_of_time(),
                    "schedule_id": schedule_id, "scheduled_at": due, "offline": true});
                agent.say("job.started", &started);
            }
        }
        Step::Post { overlap, most, fate } => post(server, agent, *overlap, *most, *fate),
        Step::Poll { fate } => poll(server, agent, *fate),
        Step::Operator => {
            let request = JobRequest {
                kind: Some("prune".to_owned()),
                schedule_id: None,
                options: None,
                actor: Actor { kind: ActorKind::Operator, name: "alice".to_owned() },
                idempotency: None,
                queue_for: None,
                is_offline: false,
                new_id: JobId(Uuid::from_u64_pair(4, number)),
            };
            // The operator's answer is lost with the server, the job may be there or not: both are right.
            let fate = if number.is_multiple_of(2) {
                Fate::Answered
            } else {
                Fate::Torn(number.to_le_bytes()[0].wrapping_mul(37))
            };
            server.facts(fate, |state, now| match decide_job(state, Some(&content()), &request, now) {
                Ok(JobDecision::New(_, facts)) => facts,
                other => unreachable!("a new job was expected: {other:?}"),
            });
        }
        Step::Cancel => {
            let actor = Actor { kind: ActorKind::Operator, name: "alice".to_owned() };
            server.facts(Fate::Answered, |state, _| {
                let newest = state.jobs.values().max_by_key(|job| job.queued_seq).map(|job| job.id);
                newest.map(|id| decide_cancel(state, id, actor)).unwrap_or_default()
            });
        }
        Step::Tick => {
            server.facts(Fate::Answered, decide_tick);
        }
        Step::Restart => server.reopen(),
        Step::AgentRestart => {
            agent.instance += 1;
            let acked = server.greet(&agent.hello());
            agent.acked = agent.acked.max(acked);
        }
        Step::NextMonth => server.now += TimeDelta::days(31),
    }
}

/// Runs the steps, lets everything settle, and says what is wrong with the history.
fn run(steps: &[Step], without_dedup: bool) -> Result<(), String> {
    let mut server = Server::new(without_dedup);
    let mut agent = Agent { spool: Vec::new(), acked: 0, cursor: String::new(), ledger: Vec::new(), instance: 1 };
    server.greet(&agent.hello());
    server.facts(Fate::Answered, |state, _| decide_versions(state, &content()));
    for (number, step) in steps.iter().enumerate() {
        take_step(&mut server, &mut agent, number as u64, step);
        let carry = Carry { previous: None, state: server.journal.state() };
        let text = serde_json::to_string(&carry).expect("JSON");
        let again: Carry<HostState> = serde_json::from_str(&text).map_err(|error| format!("the carry: {error}"))?;
        if again.state != without_lines(server.journal.state()) {
            return Err("the state is not what its carry says".to_owned());
        }
    }
    // Everything settles: what was torn is dispatched, every command is taken, run and told of.
    let mut rounds = 0;
    while !server.journal.state().jobs.is_empty() || agent.acked < agent.spool.len() as u64 {
        rounds += 1;
        if rounds > 200 {
            return Err(format!("jobs that never end: {:?}", server.journal.state().jobs.keys()));
        }
        server.facts(Fate::Answered, decide_tick);
        poll(&server, &mut agent, Fate::Answered);
        for (from, step) in
            [(Stage::Accepted, Step::Start { which: 0 }), (Stage::Started, Step::Finish { which: 0, ok: true })]
        {
            while agent.ledger.iter().any(|(_, stage)| *stage == from) {
                take_step(&mut server, &mut agent, 0, &step);
            }
        }
        post(&mut server, &mut agent, 0, 64, Fate::Answered);
    }
    server.reopen();
    judge(&server, &agent)
}

fn judge(server: &Server, agent: &Agent) -> Result<(), String> {
    let lines = server.history();
    let seqs: Vec<u64> = lines.iter().map(|line| line.seq).collect();
    if !seqs.is_sorted_by(|a, b| a < b) {
        return Err(format!("lines out of order: {seqs:?}"));
    }
    // Every event of the agent once, in the order of its stream, as it was said.
    let from_agent: Vec<_> =
        lines.iter().filter_map(|line| Some((line.stream_seq?, &line.kind, line.payload.get()))).collect();
    let said: Vec<_> = agent.spool.iter().map(|e| (e.seq, &e.kind, e.payload.get())).collect();
    if from_agent != said {
        let seqs: Vec<u64> = from_agent.iter().map(|(seq, ..)| *seq).collect();
        return Err(format!("the history is not the spool, once and in order: {seqs:?} of {}", said.len()));
    }
    let mut queued = BTreeSet::new();
    let mut due = BTreeSet::new();
    let mut ended = BTreeSet::new();
    for line in &lines {
        let payload: Value = serde_json::from_str(line.payload.get()).expect("JSON");
        let job = payload["job_id"].as_str().unwrap_or_default().to_owned();
        match line.kind.as_str() {
            "job.queued" if line.stream.is_none() => {
                if !queued.insert(job.clone()) {
                    return Err(format!("job {job} was queued twice"));
                }
                if let (Some(schedule), Some(at)) = (payload["schedule_id"].as_str(), payload["scheduled_at"].as_str())
                    && !due.insert((schedule.to_owned(), at.to_owned()))
                {
                    return Err(format!("two jobs of {schedule} at {at}"));
                }
            }
            "job.finished" if !ended.insert(job.clone()) => return Err(format!("job {job} ended twice")),
            _ => {}
        }
    }
    for id in &queued {
        let id: JobId = id.parse().expect("an id");
        let job = history::job(&server.journal_dir, u64::MAX, id).expect("history").ok_or("a job is lost")?;
        if !job.status.is_final() {
            return Err(format!("job {id} is {} for ever", job.status.as_str()));
        }
    }
    // Every fire was decided: it has its job, or is skipped with an answer.
    for envelope in agent.spool.iter().filter(|e| e.kind == "schedule.fire") {
        let fire: Value = serde_json::from_str(envelope.payload.get()).expect("JSON");
        let schedule: ScheduleId = serde_json::from_value(fire["schedule_id"].clone()).expect("an id");
        let due: DateTime<Utc> = serde_json::from_value(fire["scheduled_at"].clone()).expect("an instant");
        let decided =
            server.journal.state().schedules.get(&schedule).is_some_and(|m| m.fires.contains(&due.timestamp()));
        if !decided {
            return Err(format!("the fire of {schedule} at {due} got no answer"));
        }
    }
    Ok(())
}

/// Cases to run; `RESTIC_MANAGER_MODEL_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("RESTIC_MANAGER_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_or_repeated_every_event_counts_once_and_every_job_ends(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        if let Err(wrong) = run(&steps, false) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}

/// A fire whose answer is lost, so that it is sent again.
fn a_resend() -> Vec<Step> {
    let post = |fate| Step::Post { overlap: 0, most: 8, fate };
    vec![Step::Fire { schedule: 0, minute: 0 }, post(Fate::AnswerLost), post(Fate::Answered)]
}

#[test]
fn with_the_check_for_repetitions_skipped_the_model_notices() {
    assert_eq!(run(&a_resend(), false), Ok(()));
    let wrong = run(&a_resend(), true).expect_err("the same event is there twice");
    assert!(wrong.contains("once and in order"), "{wrong}");
}

#[test]
fn a_batch_torn_at_any_byte_leaves_no_fire_without_an_answer_and_no_job_without_an_end() {
    for share in 0..=u8::MAX {
        let steps = [
            Step::Fire { schedule: 0, minute: 0 },
            Step::Post { overlap: 0, most: 8, fate: Fate::Torn(share) },
            Step::AgentRestart,
            Step::Post { overlap: 0, most: 8, fate: Fate::Answered },
        ];
        assert_eq!(run(&steps, false), Ok(()), "share {share}");
    }
}
