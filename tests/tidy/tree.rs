//! README.md's tree against the files that are there, and how it is brought up to date.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use super::{files_below, read, root};

const TREE_BEGIN: &str = "<!-- tree: begin -->\n```text\n";
const TREE_END: &str = "```\n<!-- tree: end -->";

/// The tree's lines: each path (directories with `/` at their ends) with its words.
fn parse_tree(tree: &str) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut above: Vec<&str> = Vec::new();
    for line in tree.lines() {
        let name = line.trim_start();
        let depth = (line.len() - name.len()) / 2;
        let (name, words) = name.split_once(' ').unwrap_or((name, ""));
        above.truncate(depth);
        lines.insert(format!("{}{name}", above.concat()), words.trim().to_owned());
        if name.ends_with('/') {
            above.push(name);
        }
    }
    lines
}

/// What README.md's tree and the repository have against each other.
fn tree_complaints(tree: &BTreeMap<String, String>, sources: &[String], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = sources.iter().filter(|path| !tree.contains_key(*path)).map(|path| format!("does not name {path}"));
    let gone = tree.keys().filter(|path| !exists(path)).map(|path| format!("names {path}, which is not there"));
    // A module's directory is named after its file, which has said it.
    let says = |path: &str| tree.contains_key(&format!("{}.rs", path.trim_end_matches('/')));
    let mute = tree
        .iter()
        .filter(|(path, words)| words.is_empty() && !says(path))
        .map(|(path, _)| format!("does not say what {path} is for"));
    missing.chain(gone).chain(mute).collect()
}

fn exists(path: &str) -> bool {
    let file = root().join(path);
    if path.ends_with('/') { file.is_dir() } else { file.is_file() }
}

/// The first sentence of a file about itself, without its layer.
fn first_sentence(text: &str) -> String {
    let about: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let about = about.join(" ");
    let about = about.trim_start_matches("Pure itself.").trim_start_matches("Pure.").trim_start_matches("Edge.").trim();
    let end = about.find(". ").unwrap_or(about.trim_end_matches('.').len());
    if about.is_empty() { "its tests".to_owned() } else { about[..end].to_owned() }
}

fn blessed(tree: &BTreeMap<String, String>, sources: &[String]) -> String {
    let mut lines: BTreeMap<String, String> = tree.clone().into_iter().filter(|(path, _)| exists(path)).collect();
    for path in sources {
        lines.entry(path.clone()).or_insert_with(|| first_sentence(&read(path)));
        let parents = path.match_indices('/').map(|(at, _)| path[..=at].to_owned());
        for parent in parents.collect::<Vec<_>>() {
            lines.entry(parent).or_default();
        }
    }
    // A module's file stands before its directory: `fleet.rs`, then `fleet/`.
    let mut sorted: Vec<_> = lines.into_iter().collect();
    sorted.sort_by_key(|(path, _)| path.replace(".rs", "!"));
    let mut text = String::new();
    for (path, words) in sorted {
        let depth = path.trim_end_matches('/').matches('/').count();
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let slash = if path.ends_with('/') { "/" } else { "" };
        let shown = format!("{}{name}{slash}", "  ".repeat(depth));
        let _ = writeln!(text, "{}", format!("{shown:<27} {words}").trim_end());
    }
    text
}

#[test]
fn the_readmes_tree_is_the_repositorys() {
    let readme = read("README.md");
    let begin = readme.find(TREE_BEGIN).expect("README.md has a tree") + TREE_BEGIN.len();
    let end = begin + readme[begin..].find(TREE_END).expect("the tree ends");
    let tree = parse_tree(&readme[begin..end]);
    let mut sources = Vec::new();
    for directory in ["src", "agent", "tests"] {
        files_below(directory, &mut sources);
    }
    sources.retain(|path| path.ends_with(".rs"));
    if std::env::var_os("RESTIC_MANAGER_TIDY_BLESS").is_some() {
        let text = format!("{}{}{}", &readme[..begin], blessed(&tree, &sources), &readme[end..]);
        fs::write(root().join("README.md"), text).expect("written");
        return;
    }
    let found = tree_complaints(&tree, &sources, exists);
    assert!(found.is_empty(), "README.md's tree:\n{}\n(see tests/tidy.rs)", found.join("\n"));

    // Controls: a file that is missing, one that is gone, and one without words.
    let tree = parse_tree("src/   code\n  a.rs  what a is\n  b.rs\n");
    let found = tree_complaints(&tree, &["src/a.rs".to_owned(), "src/c.rs".to_owned()], |path| path != "src/a.rs");
    assert_eq!(
        found,
        ["does not name src/c.rs", "names src/a.rs, which is not there", "does not say what src/b.rs is for"]
    );
}
