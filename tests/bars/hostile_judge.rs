//! Whether what was started on a host is within its policy, by rules of its own that share no code with the agent: over the records
//! of a restic that writes down what it was started with, and over the execve calls that strace saw.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::text;

/// A restic that writes down its arguments and its environment as the kernel has them, and succeeds.
const RECORDER: &str = r#"#!/bin/sh
record=$(mktemp DIR/records/XXXXXXXX) || exit 1
cat /proc/$$/environ > "$record.environment"
cat /proc/$$/cmdline > "$record.arguments"
rm "$record"
case $1 in
    version) echo 'restic 0.16.4 compiled with go1.21 on linux/amd64'; exit 0 ;;
    snapshots) echo '[{"id":"deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef","short_id":"deadbeef","time":"2026-01-01T00:00:00Z","hostname":"web-1","paths":["/data"]}]'; exit 0 ;;
esac
echo '{"message_type":"summary","files_new":1,"files_changed":0,"files_unmodified":0,"dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":1,"total_files_processed":1,"total_bytes_processed":1,"total_duration":0.1,"snapshot_id":"4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e4bba301e"}'
"#;

pub(crate) fn write_recorder(dir: &Path) {
    let path = dir.join("recorder");
    fs::write(&path, RECORDER.replace("DIR", text(dir))).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// One start of restic.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    /// Without the program's own name.
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// Everything that the recorder wrote down.
pub(crate) fn records(dir: &Path) -> Vec<Started> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join("records")).expect("records").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "arguments") {
            let parts = |path: &Path| -> Vec<String> {
                let bytes = fs::read(path).expect("a record");
                let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes).to_vec();
                bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
            };
            // One that is being written, or never will be: its program was killed.
            let is_whole = || !path.with_extension("").exists();
            let patience = Instant::now() + Duration::from_secs(2);
            while !is_whole() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut arguments = parts(&path);
            if !is_whole() && arguments.len() < 2 {
                continue;
            }
            // The shell and the script come first.
            arguments.drain(..2);
            let environment = parts(&path.with_extension("environment"));
            found.push(Started { arguments, environment: environment.iter().map(|pair| split(pair)).collect() });
        }
    }
    found
}

fn split(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

/// The starts whose job tag or restore target names this job's command.
pub(crate) fn starts_of<'a>(records: &'a [Started], id: &str) -> Vec<&'a Started> {
    let tag = format!("--tag=job:{id}");
    records.iter().filter(|started| started.arguments.contains(&tag)).collect()
}

/// The kinds, the flags that take no value and those that do. What is not here is outside of every policy.
const COMMANDS: [&str; 5] = ["version", "snapshots", "backup", "restore", "check"];
const SWITCHES: [&str; 6] =
    ["--json", "--no-lock", "--one-file-system", "--exclude-caches", "--dry-run", "--read-data"];
const FLAGS: [&str; 13] = [
    "--host",
    "--tag",
    "--exclude",
    "--iexclude",
    "--exclude-if-present",
    "--exclude-larger-than",
    "--limit-upload",
    "--limit-download",
    "--retry-lock",
    "--target",
    "--include",
    "--read-data-subset",
    "--group-by",
];
const VARIABLES: [&str; 9] = [
    "PATH",
    "HOME",
    "RESTIC_REPOSITORY",
    "RESTIC_PASSWORD",
    "RESTIC_CACHE_DIR",
    "RESTIC_PROGRESS_FPS",
    "TMPDIR",
    "AWS_DEFAULT_REGION",
    "SSH_AUTH_SOCK",
];

/// What is wrong with one start, for a host whose policy is the test's: backups of `data`, restores into `restore`, the
/// repository `repo`, and nothing but backup, restore and check.
pub(crate) fn findings(dir: &Path, started: &Started) -> Vec<String> {
    let mut findings = Vec::new();
    let mut wrong = |what: &str| findings.push(format!("{what}: {started:?}"));
    let (command, rest) = started.arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if !COMMANDS.contains(&command) {
        wrong("a command that is not permitted");
    }
    let end = rest.iter().position(|argument| argument == "--").unwrap_or(rest.len());
    let (flags, names) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    for flag in flags {
        let (name, value) = flag.split_once('=').map_or((flag.as_str(), None), |(name, value)| (name, Some(value)));
        match value {
            None if SWITCHES.contains(&name) => {}
            Some(value) if FLAGS.contains(&name) => {
                if name == "--host" && value != "web-1" {
                    wrong("another host's name");
                }
                if name == "--target" && !(command == "restore" && is_below(&dir.join("restore"), value)) {
                    wrong("a target outside of the restore root");
                }
            }
            _ => wrong("a flag that no policy knows"),
        }
    }
    for name in names {
        let is_fine = match command {
            "backup" => is_below(&dir.join("data"), name),
            "restore" | "snapshots" => name == "latest" || name.bytes().all(|byte| byte.is_ascii_hexdigit()),
            _ => false,
        };
        if !is_fine {
            wrong("a name that is not permitted");
        }
    }
    if command == "backup" && names.is_empty()
        || command == "restore" && !flags.iter().any(|f| f.starts_with("--target="))
    {
        wrong("no paths, or no target");
    }
    let mut variables = BTreeMap::new();
    for (name, value) in &started.environment {
        if !VARIABLES.contains(&name.as_str()) {
            wrong("a variable that may not be set");
        }
        if variables.insert(name, value).is_some() {
            wrong("a variable twice");
        }
    }
    // `version` is asked before there are settings.
    if command != "version"
        && variables.get(&"RESTIC_REPOSITORY".to_owned()).is_none_or(|url| **url != text(&dir.join("repo")))
    {
        wrong("another repository");
    }
    findings
}

/// Whether a path is below a directory, in its text and on the disk.
fn is_below(root: &Path, path: &str) -> bool {
    let path = Path::new(path);
    let is_plain =
        path.is_absolute() && path.starts_with(root) && !path.components().any(|part| part == Component::ParentDir);
    // What is not there yet is where its nearest folder is.
    let there: Option<PathBuf> = path.ancestors().find_map(|folder| fs::canonicalize(folder).ok());
    is_plain && there.is_some_and(|there| there.starts_with(fs::canonicalize(root).expect("the root is there")))
}

/// The programs that strace saw started, each with its arguments (its own name first) and environment.
pub(crate) fn executed(trace: &str) -> Vec<(String, Started)> {
    let mut found = Vec::new();
    for line in trace.lines().filter(|line| line.ends_with("= 0") && line.contains("execve(")) {
        let call = line.split_once("execve(").expect("a call").1;
        let mut strings = Vec::new();
        let mut lists = vec![0];
        let mut characters = call.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => strings.push(quoted(&mut characters)),
                '[' | ']' => lists.push(strings.len()),
                _ => {}
            }
        }
        // The program; then where the two lists begin and end.
        let [_, arguments, arguments_end, environment, environment_end] = lists[..] else {
            unreachable!("strace -v prints two lists: {line}")
        };
        let environment = strings[environment..environment_end].iter().map(|pair| split(pair)).collect();
        let arguments = strings[arguments..arguments_end].to_vec();
        found.push((strings[0].clone(), Started { arguments, environment }));
    }
    found
}

/// The rest of a C string as strace prints it.
fn quoted(characters: &mut std::str::Chars<'_>) -> String {
    let mut bytes = Vec::new();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => match characters.next() {
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some(first @ '0'..='7') => {
                    let digits: String = std::iter::once(first)
                        .chain(characters.clone().take(2).take_while(|c| ('0'..='7').contains(c)))
                        .collect();
                    for _ in 1..digits.len() {
                        characters.next();
                    }
                    bytes.push(u8::from_str_radix(&digits, 8).unwrap_or(b'?'));
                }
                Some(other) => bytes.extend(other.to_string().bytes()),
                None => break,
            },
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
