//! A hostile server's commands: those that the test's policy does not permit, and those that look hostile and are permitted. Each
//! comes with what must become of it.

use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::text;
use crate::hostile_server::message;

/// What must become of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It starts nothing, and gets a rejecting result or fails.
    Refused,
    /// It runs and succeeds: it is permitted.
    Runs,
    /// No answer can be expected: it has no id that can be read, or one that was used.
    Nothing,
}

pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) expect: Expect,
    /// A poll's message.
    pub(crate) message: String,
}

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("small")
    }

    pub(crate) fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

/// A command as a poll's message.
pub(crate) fn command(id: &str, kind: &Value, options: &Value) -> String {
    let payload = json!({"job_id": id, "kind": kind, "options": options, "issued_at": "2026-11-25T00:00:00Z", "expires_at": "2099-01-01T00:00:00Z"});
    message("command.run", &payload.to_string())
}

/// What would show that a shell, ssh or restic ran text of the server's: each makes a file `pwned` in the scratch directory.
pub(crate) fn touch(dir: &Path) -> String {
    format!("touch {}/pwned", text(dir))
}

/// The `number`th command of a hostile server to the agent of this scratch directory.
pub(crate) fn hostile(random: &mut Random, number: usize, dir: &Path) -> Sent {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("hostile {number}").as_bytes()).to_string();
    let refused = |kind: Value, options: Value| (Expect::Refused, kind, options);
    let (expect, kind, options) = match random.below(10) {
        0 => refused(json!(kind_outside(random)), json!({})),
        1 => refused(json!("backup"), strange_options(random, dir)),
        2 | 3 => refused(json!("backup"), json!({"paths": paths(random, dir)})),
        4 => refused(json!("restore"), json!({"snapshot": "latest", "target": target(random, dir)})),
        5 => refused(json!("restore"), json!({"snapshot": snapshot(random, dir), "target": fresh_target(dir, number)})),
        6 => refused(json!("backup"), wrong_types(random, dir)),
        7 => refused(
            json!("check"),
            json!({"read_data_subset": random.of(&["1/0", "; x", "-o", "--option=x", "1/12\n", "$(id)", "", "\0"])}),
        ),
        8 => return odd_payload(random, &id, dir),
        _ => permitted(random, number, dir),
    };
    Sent { message: command(&id, &kind, &options), id, expect }
}

fn kind_outside(random: &mut Random) -> String {
    let kinds = [
        "shell",
        "exec",
        "hook",
        "copy",
        "verify",
        "ls",
        "mount",
        "dump",
        "self-update",
        "key",
        "cat",
        "migrate",
        "rewrite",
        "Backup",
        "backup ",
        " backup",
        "backup\0",
        "",
        "../backup",
        "-o",
        "--option",
        "version",
        "backup\n",
        "forget",
        "prune",
        "unlock",
        "init",
    ];
    random.of(&kinds).to_owned()
}

/// Options that there are not, each of which restic would know.
fn strange_options(random: &mut Random, dir: &Path) -> Value {
    let touch = touch(dir);
    let values = [
        json!(touch),
        json!([touch]),
        json!({"sftp.command": touch, "rclone.program": touch}),
        json!(["-o", format!("sftp.command={touch}")]),
        json!("/etc/shadow"),
    ];
    let name = random.of(&[
        "o",
        "-o",
        "option",
        "options",
        "args",
        "argv",
        "env",
        "environment",
        "hook",
        "pre_hook",
        "post_hook",
        "password_command",
        "password-command",
        "--password-command",
        "stdin_from_command",
        "files_from",
        "exclude_file",
        "repo",
        "repository_file",
        "cacert",
        "tls_client_cert",
        "rclone.program",
        "sftp.command",
        "RESTIC_PASSWORD_COMMAND",
        "LD_PRELOAD",
        "program",
        "restic",
        "cache_dir",
        "key_hint",
        "parent",
        "host",
        "",
        "paths\0",
    ]);
    let value = values[random.below(values.len())].clone();
    json!({"paths": [text(&dir.join("data"))], name: value})
}

/// Paths that lead out of the backup root, by themselves or beside a good one.
fn paths(random: &mut Random, dir: &Path) -> Value {
    let dir = text(dir);
    let bad = random
        .of(&[
            "/etc",
            "/",
            "//etc",
            "/proc/self/environ",
            "-o",
            "--option=sftp.command=x",
            "--password-command=id",
            "--",
            "-",
            "data",
            "",
            "~/.ssh",
            ".",
            "..",
            "C:\\data",
            "\\\\nas\\share\\x",
            "DIR/data/../outside",
            "DIR/data/..",
            "DIR/data\0",
            "DIR/data-other",
            "DIR/dat",
            "DIR/data/./../outside",
            "DIR/data/..\\outside",
            "DIR/DATA",
            "DIR/outside/secret",
            "DIR/data/link/secret",
            "DIR/data/link/../outside",
            "DIR/data/link/.",
            "DIR/data\n/../../etc",
            "DIR",
            "DIR/restore",
            " DIR/data",
            "file://DIR/data",
            "$(id)",
        ])
        .replace("DIR", dir);
    match random.below(3) {
        0 => json!([format!("{dir}/data"), bad]),
        1 => json!([bad, format!("{dir}/data")]),
        _ => json!([bad]),
    }
}

fn fresh_target(dir: &Path, number: usize) -> String {
    format!("{}/restore/{number}", text(dir))
}

/// Targets that lead out of the restore root.
fn target(random: &mut Random, dir: &Path) -> String {
    random
        .of(&[
            "/etc/cron.d",
            "/",
            "/root/.ssh",
            "-o",
            "--target=/",
            "restore",
            "",
            "..",
            "DIR/restore/../outside",
            "DIR/restore-other",
            "DIR/outside",
            "DIR/restore/./../outside/x",
            "DIR/restore/link",
            "DIR/restore/link/new",
            "DIR/restore/link/a/b/c",
            "DIR/restore/x\0",
            "DIR/data/x",
            "DIR/restore/..\\x",
            "DIR/restor",
            "\\\\nas\\share",
            "C:\\Windows",
            "DIR/restore/a/../../outside/x",
            "DIR/RESTORE/x",
        ])
        .replace("DIR", text(dir))
}

fn snapshot(random: &mut Random, dir: &Path) -> String {
    let long = "f".repeat(65);
    let list = [
        "--help",
        "-o",
        "--option=x",
        "latest --option",
        "latest\0",
        "deadbeef\n",
        "../..",
        "abc",
        "",
        "LATEST",
        "latest:/etc",
        "deadbee",
        "gggggggg",
    ];
    match random.below(list.len() + 2) {
        0 => long,
        1 => format!("$({})", touch(dir)),
        n => list[n - 2].to_owned(),
    }
}

fn wrong_types(random: &mut Random, dir: &Path) -> Value {
    let data = text(&dir.join("data")).to_owned();
    let with = |name: &str, value: Value| json!({"paths": [data], name: value});
    match random.below(16) {
        0 => json!({"paths": data}),
        1 => json!({"paths": {"0": data}}),
        2 => json!({"paths": [[data]]}),
        3 => json!({"paths": [5]}),
        4 => json!("text"),
        5 => json!([data]),
        6 => json!(5),
        7 => json!({}),
        8 => with("retries", json!(-1)),
        9 => with("retries", json!(1e300)),
        10 => with("dry_run", json!("yes")),
        11 => with("excludes", json!([1])),
        12 => with("excludes", json!(["a\0b"])),
        13 => with("tags", json!([random.of(&["a,b", "schedule:other", "job:other", " job:x", "", "x\0"])])),
        14 => with("exclude_larger_than", json!(random.of(&["-1", "--option", "1M; id", "$(id)", "1e9", ""]))),
        _ => with("exclude_if_present", json!([""])),
    }
}

/// Payloads that are no command, nearly no command, or very large.
fn odd_payload(random: &mut Random, id: &str, dir: &Path) -> Sent {
    let data = text(&dir.join("data")).to_owned();
    let good = json!({"job_id": id, "kind": "backup", "options": {"paths": [data]}, "issued_at": "2026-11-25T00:00:00Z", "expires_at": "2099-01-01T00:00:00Z"});
    let with = |name: &str, value: Value| {
        let mut payload = good.clone();
        payload[name] = value;
        payload.to_string()
    };
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let (expect, payload) = match random.below(18) {
        0 => (Expect::Nothing, with("job_id", json!("../../../etc/cron.d/x"))),
        1 => (Expect::Nothing, with("job_id", json!(null))),
        2 => (Expect::Nothing, with("job_id", json!(["x"]))),
        3 => (Expect::Nothing, "null".to_owned()),
        4 => (Expect::Nothing, "[]".to_owned()),
        5 => (Expect::Nothing, format!("\"{}\"", touch(dir))),
        6 => (Expect::Refused, with("kind", json!(7))),
        7 => (Expect::Refused, with("kind", json!({"backup": {}}))),
        8 => (Expect::Refused, with("expires_at", json!("2020-01-01T00:00:00Z"))),
        9 => (Expect::Refused, with("expires_at", json!("soon"))),
        10 => (Expect::Refused, with("issued_at", json!(1e300))),
        11 => (Expect::Refused, with("schedule_id", json!("../x"))),
        12 => (Expect::Refused, with("options", json!({"paths": ["/".repeat(100_000)]}))),
        13 => (Expect::Refused, with("options", json!({"x".repeat(100_000): 1}))),
        14 => (Expect::Refused, with("options", json!({"paths": vec!["/etc"; 5_000]}))),
        15 => (Expect::Refused, good.to_string().replace(&json!({"paths": [data]}).to_string(), &deep(100))),
        16 => (Expect::Refused, good.to_string().replace(&json!({"paths": [data]}).to_string(), &deep(5_000))),
        _ => (Expect::Refused, with("kind", json!("k".repeat(100_000)))),
    };
    Sent { id: id.to_owned(), expect, message: message("command.run", &payload) }
}

/// What the policy permits, however it looks: values that would be flags, commands or patterns to somebody who took them for text.
fn permitted(random: &mut Random, number: usize, dir: &Path) -> (Expect, Value, Value) {
    let (data, touch) = (text(&dir.join("data")).to_owned(), touch(dir));
    let strange = [
        "-o",
        "--password-command=id",
        "--",
        "$(id)",
        "`id`",
        ";id",
        "a\nb",
        "*",
        "\u{202e}",
        "'",
        "\"",
        "%s",
        "a b",
        "\\",
    ];
    let value = if random.below(3) == 0 { touch } else { strange[random.below(strange.len())].to_owned() };
    let backup = |options: Value| (Expect::Runs, json!("backup"), options);
    match random.below(6) {
        0 => backup(json!({"paths": [data], "excludes": [value], "iexcludes": [value]})),
        1 => backup(json!({"paths": [format!("{data}/{value}")], "dry_run": true})),
        2 => backup(json!({"paths": [data], "tags": [value], "exclude_larger_than": "1G", "one_file_system": true})),
        3 => backup(json!({"paths": [data, format!("{data}/./file")], "exclude_if_present": [value]})),
        4 => (
            Expect::Runs,
            json!("restore"),
            json!({"snapshot": "deadbeef", "target": fresh_target(dir, number), "exclude": [value]}),
        ),
        _ => (Expect::Runs, json!("check"), json!({"read_data_subset": "1/12"})),
    }
}
