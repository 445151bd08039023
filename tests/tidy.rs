//! The rules that no compiler checks: layers, sizes, words, the repository's top level, dependencies' reasons, and that
//! README.md's tree names every source file. Each rule is a function from a file to complaints, and each is shown to
//! complain about a bad sample (`every_rule_finds_its_bad_sample`).
//!
//! After files came or went `RESTIC_MANAGER_TIDY_BLESS=1 cargo test --test tidy` puts them into README.md's tree; a new
//! line's words are the file's own first sentence: shorten them.
#![allow(clippy::disallowed_methods, reason = "tests set their files and times up by hand, and start programs")]

#[path = "tidy/tree.rs"]
mod tree;

use std::fs;
use std::path::Path;

/// A file of the repository: its path from the top with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

/// Answers what is wrong with one file.
type Rule = fn(&Source) -> Vec<String>;

const RULES: [(&str, Rule); 8] = [
    ("layer line", layer_line),
    ("pure", pure_modules_stay_pure),
    ("layers", layers_look_down_only),
    ("words", words_that_stay_out),
    ("length", length),
    ("secrets", nothing_that_looks_like_a_secret),
    ("reasons", dependencies_have_reasons),
    ("top level", top_level),
];

/// Files without a layer of their own: the crates' roots.
const ROOTS: [&str; 2] = ["src/lib.rs", "agent/main.rs"];

/// What comes to a pure module as an argument, and where one may be named all the same, with the reason.
const IMPURE: [&str; 11] = [
    "tokio",
    "hyper",
    "notify",
    "std::fs",
    "std::net",
    "Utc::now",
    "Local::now",
    "SystemTime",
    "Instant::now",
    "new_v4",
    "getrandom",
];
const PURE_EXCEPTIONS: [(&str, &str, &str); 6] = [
    ("src/server/http/answer.rs", "hyper", "hyper's types of answers (status, headers, body); no I/O with them"),
    ("src/server/fleet/settings.rs", "std::net", "addresses as values; no socket"),
    ("src/server/http/client_address.rs", "std::net", "addresses as values; no socket"),
    ("src/ip_range.rs", "std::net", "addresses as values; no socket"),
    ("src/proxy.rs", "std::net", "addresses as values; no socket"),
    ("src/proxy.rs", "hyper", "its type of URLs; no I/O with them"),
];

/// Files that may be longer than `LONGEST`, with the reason.
const LONGEST: usize = 400;
const LONG_FILES: [(&str, &str); 3] = [
    ("tests/e2e/crash.rs", "two stories of crashes and the checker that shares no code with what it checks"),
    ("tests/model.rs", "one model with its two sides, its steps and its checks, which are read together"),
    ("tests/wire/main.rs", "a list: one sample per message, and the words of every enum"),
];

/// What product.md lists, the dot files that there are, and where cargo builds. Beside them only what .gitignore names.
const TOP_LEVEL: [&str; 18] = [
    ".ci/",
    ".clippy.toml",
    ".git",
    ".git/",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "agent/",
    "config/",
    "src/",
    "state/",
    "systemd/",
    "tests/",
    "windows/",
    "target/",
];

fn is_layered(path: &str) -> bool {
    let is_ours = path.ends_with(".rs") && (path.starts_with("src/") || path.starts_with("agent/"));
    is_ours && !path.ends_with("/tests.rs") && !ROOTS.contains(&path)
}

fn layer_line(file: &Source) -> Vec<String> {
    let first = file.text.lines().next().unwrap_or_default();
    if !is_layered(&file.path) || first.starts_with("//! Pure") || first.starts_with("//! Edge.") {
        return Vec::new();
    }
    vec!["begins with neither `//! Pure.` nor `//! Edge.`".to_owned()]
}

/// The code proper: without comments and the tests at its end. Strings stay.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_tests = |line: &str| line == "#[cfg(test)]";
    let lines = text.lines().enumerate().take_while(move |(_, line)| !is_tests(line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(index, line)| (index + 1, line))
}

/// Whether `word` stands in `line` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_part)
            && !line[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

fn pure_modules_stay_pure(file: &Source) -> Vec<String> {
    if !is_layered(&file.path) || !file.text.starts_with("//! Pure") {
        return Vec::new();
    }
    let is_excepted =
        |word: &str| PURE_EXCEPTIONS.iter().any(|(path, except, _)| *path == file.path && *except == word);
    let mut complaints = Vec::new();
    for (number, line) in code(&file.text) {
        // `use std::{fs, ...}` names std::fs too.
        let grouped = line.trim_start().strip_prefix("use std::{").unwrap_or_default();
        let found = IMPURE.iter().filter(|word| {
            let last = word.strip_prefix("std::");
            !is_excepted(word) && (names(line, word) || last.is_some_and(|last| names(grouped, last)))
        });
        complaints.extend(found.map(|word| format!("line {number}: a pure module names {word}: pass the value in")));
    }
    complaints
}

fn layers_look_down_only(file: &Source) -> Vec<String> {
    let path = file.path.as_str();
    let is_server = ["src/server", "src/cli", "src/main.rs", "src/lib.rs"].iter().any(|start| path.starts_with(start));
    let forbidden: &[&str] = match path {
        _ if path.starts_with("agent/") => &["restic_manager::server", "restic_manager::cli"],
        _ if path.starts_with("src/server") => &["crate::cli"],
        _ if path.starts_with("src/") && !is_server => &["crate::server", "crate::cli"],
        _ => &[],
    };
    let named = |line: &str, path: &str| {
        let (head, tail) = path.split_once("::").unwrap_or((path, ""));
        names(line, path) || line.trim_start().starts_with(&format!("use {head}::{{")) && names(line, tail)
    };
    let mut complaints = Vec::new();
    for (number, line) in code(&file.text) {
        let found = forbidden.iter().filter(|path| named(line, path));
        complaints.extend(found.map(|path| format!("line {number}: names {path}, which is above it")));
    }
    complaints
}

fn words_that_stay_out(file: &Source) -> Vec<String> {
    // Put together here, so that this file passes.
    let words =
        [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("#[ig", "nore"), concat!("should", "_panic")];
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let lines = file.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let found = lines.flat_map(|(index, line)| {
        words.iter().filter(move |word| line.contains(**word)).map(move |word| format!("line {}: {word}", index + 1))
    });
    found.collect()
}

fn length(file: &Source) -> Vec<String> {
    let lines = file.text.lines().count();
    let reason = LONG_FILES.iter().find(|(path, _)| *path == file.path);
    match reason {
        _ if !file.path.ends_with(".rs") => Vec::new(),
        None if lines > LONGEST => {
            vec![format!("{lines} lines: look for the two things that it is (or give the reason in LONG_FILES)")]
        }
        Some(_) if lines <= LONGEST => vec![format!("{lines} lines only: take it out of LONG_FILES")],
        _ => Vec::new(),
    }
}

/// Prefixes of tokens, and how many of their letters and digits make one.
const TOKENS: [(&str, usize); 6] =
    [("rma_", 43), ("rme_", 43), ("rmo_", 43), ("AKIA", 16), ("ghp_", 36), ("glpat-", 20)];

fn nothing_that_looks_like_a_secret(file: &Source) -> Vec<String> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let key = concat!("PRIVATE ", "KEY-----");
    let mut complaints = Vec::new();
    let mut lines = file.text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        for (prefix, least) in TOKENS {
            for (at, _) in line.match_indices(prefix) {
                let rest: String = line[at + prefix.len()..].chars().take_while(is_part).collect();
                // A row of one letter is a placeholder.
                let mut letters: Vec<char> = rest.chars().collect();
                letters.sort_unstable();
                letters.dedup();
                if rest.len() >= least && letters.len() > 4 {
                    complaints.push(format!("line {}: looks like a secret: {prefix}...", index + 1));
                }
            }
        }
        let body = lines.peek().map_or(0, |(_, next)| next.trim_matches(|c| matches!(c, '"' | ' ')).len());
        if line.contains("-----BEGIN") && line.contains(key) && body >= 64 {
            complaints.push(format!("line {}: looks like a private key", index + 1));
        }
    }
    complaints
}

fn dependencies_have_reasons(file: &Source) -> Vec<String> {
    if file.path != "Cargo.toml" {
        return Vec::new();
    }
    let (mut inside, mut before) = (false, "");
    let mut complaints = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside
            && line.contains('=')
            && !line.starts_with('#')
            && !before.starts_with('#')
            && !line.contains(" # ")
        {
            complaints.push(format!("line {}: no comment above it says why it is there", index + 1));
        }
        before = line;
    }
    complaints
}

/// `file.path` is an entry of the repository's top, directories with `/` at their ends.
fn top_level(file: &Source) -> Vec<String> {
    let name = file.path.as_str();
    let is_entry = !name.trim_end_matches('/').contains('/');
    let is_ignored =
        || read(".gitignore").lines().any(|line| line.strip_prefix('/') == Some(name.trim_end_matches('/')));
    if !is_entry || TOP_LEVEL.contains(&name) || is_ignored() {
        return Vec::new();
    }
    vec!["is not one of the things at the top of the repository".to_owned()]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(root().join(path)).expect(path)).into_owned()
}

/// Every file below a directory, sorted.
fn files_below(directory: &str, found: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(root().join(directory)).expect("a directory").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("names are text");
        let path = format!("{directory}/{name}");
        if !entry.file_type().expect("a kind").is_dir() {
            found.push(path);
        } else if !matches!(name.as_str(), "target" | "__pycache__" | "node_modules") {
            files_below(&path, found);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut paths: Vec<String> = ["Cargo.toml", "README.md", ".clippy.toml", ".ci/run"].map(str::to_owned).to_vec();
    for directory in ["src", "agent", "tests", "config", "systemd", "windows"] {
        files_below(directory, &mut paths);
    }
    paths.push("state/README.md".to_owned());
    paths.into_iter().map(|path| Source { text: read(&path), path }).collect()
}

fn complaints(file: &Source) -> Vec<String> {
    let of_rule = |(name, rule): &(&str, Rule)| {
        rule(file).into_iter().map(|complaint| format!("{}: {complaint} [{name}]", file.path)).collect::<Vec<_>>()
    };
    RULES.iter().flat_map(of_rule).collect()
}

#[test]
fn every_file_keeps_the_rules() {
    let sources = sources();
    assert!(sources.len() > 50, "the repository was found");
    let mut found: Vec<String> = sources.iter().flat_map(complaints).collect();
    for entry in fs::read_dir(root()).expect("the repository").flatten() {
        let slash = if entry.path().is_dir() { "/" } else { "" };
        let path = format!("{}{slash}", entry.file_name().to_string_lossy());
        found.extend(
            top_level(&Source { path: path.clone(), text: String::new() }).iter().map(|c| format!("{path}: {c}")),
        );
    }
    for (path, _) in LONG_FILES {
        if !sources.iter().any(|file| file.path == path) {
            found.push(format!("LONG_FILES names {path}, which is not there"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_rule_finds_its_bad_sample() {
    let key = format!(concat!("-----BEGIN PRIVATE ", "KEY-----\n{}\n"), "MIIE".repeat(16));
    let token = format!("token = \"rma_{}\"", "aB3-".repeat(11).replacen('a', "xyz", 1));
    let samples: &[(&str, &str, &str)] = &[
        ("layer line", "src/a.rs", "//! A module.\n"),
        ("pure", "src/a.rs", "//! Pure. A.\nuse tokio::fs;\n"),
        ("pure", "agent/a.rs", "//! Pure. A.\nlet now = Utc::now();\n"),
        ("pure", "src/a.rs", "//! Pure. A.\nuse std::{fmt, fs};\n"),
        ("pure", "src/server/http/answer.rs", "//! Pure. A.\nlet at = Instant::now();\n"),
        ("layers", "agent/a.rs", "//! Edge. A.\nuse restic_manager::server::app;\n"),
        ("layers", "agent/a.rs", "//! Edge. A.\nuse restic_manager::{job, server};\n"),
        ("layers", "src/job.rs", "//! Pure. A.\nuse crate::server::app;\n"),
        ("layers", "src/server/app.rs", "//! Edge. A.\nuse crate::cli::serve;\n"),
        ("words", "src/a.rs", concat!("//! Pure. A.\nto", "do!()\n")),
        ("words", "tests/a.rs", concat!("#[ig", "nore]\n")),
        ("words", "tests/a.rs", concat!("#[should", "_panic]\n")),
        ("length", "src/a.rs", &"//! Pure. A.\n".repeat(LONGEST + 1)),
        ("length", LONG_FILES[0].0, "//! Edge. Short.\n"),
        ("secrets", "config/server.toml", &token),
        ("secrets", "tests/a.pem", &key),
        ("reasons", "Cargo.toml", "[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n"),
        ("top level", "notes/", ""),
        ("top level", "run.sh", ""),
        ("top level", ".arguments", ""),
    ];
    for (name, path, text) in samples {
        let file = Source { path: (*path).to_owned(), text: (*text).to_owned() };
        let found = complaints(&file);
        assert!(
            found.iter().any(|c| c.ends_with(&format!("[{name}]")) || c.contains(&format!("[{name}]"))),
            "{name}: {path}: {text}"
        );
    }
    for (name, _) in RULES {
        assert!(samples.iter().any(|(sample, ..)| *sample == name), "no bad sample for {name}");
    }
    let good = Source {
        path: "src/a.rs".to_owned(),
        text: "//! Pure. No tokio.\n// hyper\nlet notifying = 1;\n#[cfg(test)]\nuse std::fs;\n".to_owned(),
    };
    assert_eq!(complaints(&good), Vec::<String>::new());
}
