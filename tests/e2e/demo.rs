//! `restic-manager demo`: to its end without help, nothing left behind unless asked, and no restic is a clear message.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{SERVER, text};

fn demo(arguments: &[&str], path: Option<&str>, temp: &Path) -> Output {
    let mut command = Command::new(SERVER);
    command.arg("demo").args(arguments).env("TMPDIR", temp);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().expect("the demo starts")
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_demo_runs_to_its_end_and_leaves_nothing_unless_asked() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let ran = demo(&[], None, temp.path());
    assert_eq!(ran.status.code(), Some(0), "{}", said(&ran));
    for words in
        ["init the repository", "400 new files", "10 new files", "410 restored files byte for byte: all the same"]
    {
        assert!(said(&ran).contains(words), "{words}: {}", said(&ran));
    }
    let left: Vec<_> = fs::read_dir(temp.path()).expect("list").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");

    let dir = temp.path().join("kept");
    let ran = demo(&["--keep", "--dir", text(&dir)], None, temp.path());
    assert_eq!(ran.status.code(), Some(0), "{}", said(&ran));
    let journal = dir.join("state/hosts/demo-1/journal");
    let lines: String = fs::read_dir(&journal)
        .expect("a journal")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "jsonl"))
        .map(|entry| fs::read_to_string(entry.path()).expect("a segment"))
        .collect();
    assert_eq!(lines.matches("\"type\":\"job.finished\"").count(), 5, "{lines}");
    // What is there is never overwritten.
    let again = demo(&["--dir", text(&dir)], None, temp.path());
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("exists") && journal.is_dir(), "{}", said(&again));
}

#[test]
fn without_restic_the_demo_says_how_to_install_it() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let ran = demo(&[], Some(text(temp.path())), temp.path());
    assert_eq!(ran.status.code(), Some(1), "{}", said(&ran));
    assert!(said(&ran).contains("apt-get install restic"), "{}", said(&ran));
    assert_eq!(fs::read_dir(temp.path()).expect("list").count(), 0);
}
