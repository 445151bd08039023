//! P15: only what is known to be success is success. A restic that ends with each of the 256 exit codes and of every signal,
//! for each kind of job, through the real agent and server; judged by a table of restic's documentation, not by our code.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::count;
use crate::harness::{Fleet, text};

/// Ends as the file `ending` says: `code 5` or `signal 9`. What the agent asks besides is answered.
const ENDING: &str = r#"#!/bin/sh
case $1 in
    version) echo 'restic 0.18.0 compiled with go1.24 on linux/amd64'; exit 0 ;;
    snapshots) echo '[{"id":"deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef","short_id":"deadbeef","time":"2026-01-01T00:00:00Z","hostname":"web-1","paths":["/data"]}]'; exit 0 ;;
    unlock) [ -e DIR/unlock-too ] || exit 0 ;;
esac
read -r how number < DIR/ending
[ "$how" = code ] && exit "$number"
kill -"$number" $$
# Signals that do not end a process.
exit 77
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Code(i32),
    Signal(i32),
}

/// What a job's view says of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    succeeded: bool,
    incomplete: bool,
    exit_code: Option<i64>,
}

/// By restic's manual: 0 is done; 3 is a snapshot without some sources, of backups only; everything else is not done.
fn expected(kind: &str, ending: Ending) -> Told {
    match ending {
        Ending::Code(0) => Told { succeeded: true, incomplete: false, exit_code: Some(0) },
        Ending::Code(3) if kind == "backup" => Told { succeeded: true, incomplete: true, exit_code: Some(3) },
        Ending::Code(code) => Told { succeeded: false, incomplete: false, exit_code: Some(code.into()) },
        // By default nothing happens (SIGCHLD, SIGCONT, SIGURG, SIGWINCH): the script goes on to its own code.
        Ending::Signal(17 | 18 | 23 | 28) => Told { succeeded: false, incomplete: false, exit_code: Some(77) },
        Ending::Signal(_) => Told { succeeded: false, incomplete: false, exit_code: None },
    }
}

fn told(job: &Value) -> Told {
    Told {
        succeeded: job["status"] == "succeeded",
        incomplete: job.get("incomplete") == Some(&json!(true)),
        exit_code: job.get("exit_code").and_then(Value::as_i64),
    }
}

/// What is wrong with a job's view.
fn judge(kind: &str, ending: Ending, job: &Value) -> Result<(), String> {
    let (told, expected) = (told(job), expected(kind, ending));
    if told != expected {
        return Err(format!("{kind} {ending:?}: expected {expected:?}, told {told:?}: {job}"));
    }
    let explains = job["error"].as_str().is_some_and(|error| !error.is_empty());
    if explains == told.succeeded {
        return Err(format!("{kind} {ending:?}: an error's text belongs to failures, and to each of them: {job}"));
    }
    match ending {
        Ending::Signal(number) if told.exit_code.is_none() => {
            let named = job["error"].as_str().is_some_and(|error| error.contains(&format!("signal {number}")));
            if named { Ok(()) } else { Err(format!("{kind} {ending:?}: the error does not name it: {job}")) }
        }
        _ => Ok(()),
    }
}

const KINDS: [(&str, &str); 7] = [
    ("backup", r#"{"schedule_id":"data"}"#),
    ("init", r#"{"kind":"init"}"#),
    ("forget", r#"{"kind":"forget","schedule_id":"data"}"#),
    ("prune", r#"{"kind":"prune"}"#),
    ("check", r#"{"kind":"check"}"#),
    ("unlock", r#"{"kind":"unlock"}"#),
    ("restore", r#"{"kind":"restore","options":{"snapshot":"latest"}}"#),
];

#[test]
fn p15_only_what_is_known_to_be_success_is_success() {
    let mut fleet = Fleet::new();
    let script = fleet.path("ending-restic");
    fs::write(&script, ENDING.replace("DIR", text(fleet.dir.path()))).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    fleet = fleet.start(text(&script));
    // 19 to 22 stop a process, which then neither runs nor ends; 32 and 33 are the C library's own.
    let signals = (1..=64).filter(|number| !matches!(number, 19..=22 | 32 | 33)).map(Ending::Signal);
    let all: Vec<Ending> = (0..=255).map(Ending::Code).chain(signals).collect();
    let telling = |ending: &Ending| match ending {
        Ending::Code(code) => matches!(code, 0..=3 | 10..=12 | 77 | 126..=128 | 130 | 137 | 255),
        Ending::Signal(number) => matches!(number, 2 | 9 | 11 | 15 | 17 | 64),
    };
    let every = count(13, 1);
    for (kind, body) in KINDS {
        if kind == "unlock" {
            fleet.write("unlock-too", "");
        }
        let of_all = |at: usize| at.is_multiple_of(every) && (kind == "backup" || every == 1);
        let endings = all.iter().enumerate().filter(|(at, ending)| {
            of_all(*at)
                || (telling(ending) && (kind == "backup" || matches!(ending, Ending::Code(0 | 3) | Ending::Signal(9))))
        });
        for (_, ending) in endings {
            let line = match ending {
                Ending::Code(code) => format!("code {code}\n"),
                Ending::Signal(number) => format!("signal {number}\n"),
            };
            fleet.write("ending", &line);
            let job = fleet.run_job(body);
            judge(kind, *ending, &job).unwrap_or_else(|wrong| panic!("{wrong}"));
            if *ending == Ending::Code(3) {
                // The control: neither this job's view for another ending, nor another kind's, passes.
                judge(kind, Ending::Code(5), &job).expect_err("it was not 5");
                let other = if kind == "backup" { "prune" } else { "backup" };
                judge(other, *ending, &job).expect_err("3 means something else there");
            }
        }
    }
}
