//! The JSON Schemas of `restic-manager schema`, judged by a validator that is not ours: they take what `check` takes, refuse what is
//! wrong within one file's shape, and know the same keys as the configuration's own reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use restic_manager::cli::schema::{SchemaKind, schema};
use restic_manager::server::fleet::load::load;
use restic_manager::server::fleet::read_tree::{ReadBefore, read_tree};
use serde_json::{Value, json};

use super::{Files, cases, lines};

const KINDS: [SchemaKind; 5] =
    [SchemaKind::Server, SchemaKind::Host, SchemaKind::Group, SchemaKind::Repository, SchemaKind::Agent];

/// Which schema a file is for; `None`: it is no file of a fleet.
fn kind_of(path: &str) -> Option<SchemaKind> {
    let name = path.strip_suffix(".toml").filter(|name| !name.split('/').any(|part| part.starts_with('.')))?;
    match name.split('/').collect::<Vec<_>>().as_slice() {
        ["server"] => Some(SchemaKind::Server),
        ["agent"] => Some(SchemaKind::Agent),
        ["hosts", _] => Some(SchemaKind::Host),
        ["groups", _] => Some(SchemaKind::Group),
        ["repositories", _] => Some(SchemaKind::Repository),
        _ => None,
    }
}

/// What an editor sees of TOML.
fn seen(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(value) => value.into(),
        // No text, and nothing that any schema of ours wants.
        toml::Value::Datetime(time) => json!({ "time": time.to_string() }),
        toml::Value::Array(items) => items.into_iter().map(seen).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, seen(value))).collect(),
    }
}

struct Judge(Vec<(SchemaKind, jsonschema::Validator)>);

impl Judge {
    fn new() -> Self {
        Self(KINDS.map(|kind| (kind, jsonschema::validator_for(&schema(kind)).expect("a schema"))).into())
    }

    /// What is wrong with a file; nothing where it is no TOML: editors say that by themselves.
    fn complaints(&self, kind: SchemaKind, text: &str) -> Vec<String> {
        let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
        let document = seen(toml::Value::Table(table));
        let (_, validator) = self.0.iter().find(|(known, _)| *known == kind).expect("all kinds");
        validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    fn of_all(&self, files: &Files) -> Vec<String> {
        let of = |(path, text): (&String, &String)| {
            let found = kind_of(path).map(|kind| self.complaints(kind, text)).unwrap_or_default();
            found.into_iter().map(|complaint| format!("{path}{complaint}")).collect::<Vec<_>>()
        };
        files.iter().flat_map(of).collect()
    }
}

/// Every file of a directory, by its path below it.
fn files_of(directory: &Path) -> Files {
    let (texts, problems) = read_tree(directory, &mut ReadBefore::default());
    assert_eq!(lines(&problems), "");
    texts.into_iter().map(|(path, text)| (path, text.to_string())).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The TOML blocks of README.md: each names its file behind the word "toml".
fn readme_blocks() -> Files {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut blocks = Files::new();
    let mut open: Option<&str> = None;
    for line in readme.lines() {
        match (open, line.strip_prefix("```toml")) {
            (None, Some(name)) => {
                let name = name.trim().strip_prefix("config/");
                open = Some(name.expect("a block of TOML names its file: ```toml config/hosts/web-1.toml"));
            }
            (Some(_), _) if line == "```" => open = None,
            (Some(name), _) => *blocks.entry(name.to_owned()).or_default() += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

#[test]
fn what_check_takes_the_schemas_take() {
    let judge = Judge::new();
    let mut wrong = judge.of_all(&files_of(&root().join("config")));
    wrong.extend(judge.of_all(&readme_blocks()));
    for (path, files, _) in cases("good").into_iter().chain(cases("doubtful")) {
        wrong.extend(judge.of_all(&files).iter().map(|complaint| format!("{}: {complaint}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_block_of_toml_in_the_readme_passes_check_beside_the_sample() {
    let blocks = readme_blocks();
    assert!(!blocks.is_empty(), "README.md has blocks of TOML");
    let mut files = files_of(&root().join("config"));
    files.extend(blocks);
    assert_eq!(lines(&load(&files).1), "");
}

const OTHER_FILES: &str = "it is about what other files say";
const TOGETHER: &str = "each value is right by itself";
const ABSENT: &str = "a group or host may add what is absent";
const NAME: &str = "it is about the file's name or place";
const NO_TOML: &str = "it is no TOML";
const CALENDAR: &str = "it takes a calendar, or counting";

/// The bad cases that no schema can see, and why.
const UNSEEN: [(&str, &str); 31] = [
    ("a-groups-problem-is-told-once", ABSENT),
    ("check-subset", CALENDAR),
    ("copy", OTHER_FILES),
    ("cron-missing", ABSENT),
    ("cron-never-due", CALENDAR),
    ("forget-without-retention", TOGETHER),
    ("group-file-name", NAME),
    ("host-file-name", NAME),
    ("kind-missing", ABSENT),
    ("maintenance-url", TOGETHER),
    ("no-repository", ABSENT),
    ("paths-empty", ABSENT),
    ("paths-missing", ABSENT),
    ("repository-file-name", NAME),
    ("repository-secret-command", OTHER_FILES),
    ("repository-secret-no-roots", OTHER_FILES),
    ("repository-secret-outside", OTHER_FILES),
    ("retention-keeps-nothing", TOGETHER),
    ("retention-wrong-count", NO_TOML),
    ("schedule-id-twice", TOGETHER),
    ("splay-too-long", CALENDAR),
    ("stray-files", NAME),
    ("syntax-deep-nesting", NO_TOML),
    ("syntax-duplicate-key", NO_TOML),
    ("syntax-in-a-group-hides-what-follows", NO_TOML),
    ("syntax-no-value", NO_TOML),
    ("syntax-unclosed-text", NO_TOML),
    ("unknown-group-none-at-all", OTHER_FILES),
    ("unknown-group", OTHER_FILES),
    ("unknown-repository", OTHER_FILES),
    ("verify-of-no-schedule", TOGETHER),
];

#[test]
fn what_is_wrong_within_a_files_shape_the_schemas_refuse_and_the_rest_is_listed() {
    let judge = Judge::new();
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let is_no_toml = |text: &String| text.parse::<toml::Table>().is_err();
    let accepted: Vec<(String, bool)> = cases("bad")
        .into_iter()
        .filter(|(_, files, _)| judge.of_all(files).is_empty())
        .map(|(path, files, _)| {
            (name(&path), files.iter().any(|(path, text)| kind_of(path).is_some() && is_no_toml(text)))
        })
        .collect();
    let listed: Vec<(String, bool)> = UNSEEN.iter().map(|(name, why)| ((*name).to_owned(), *why == NO_TOML)).collect();
    assert_eq!(accepted, listed);
}

#[test]
fn an_agents_settings_are_refused_where_the_agent_refuses_them() {
    let judge = Judge::new();
    let head = "server = \"https://backup.example.org\"\nhost = \"web-1\"\n";
    let rows = [
        ("", true),
        ("ca_file = \"/ca.pem\"\ntls = \"pin\"\nrotate_after = \"never\"\n", true),
        ("[secrets.restic]\nfile = \"/p\"\nrepositories = [\"rest:https://backup.example.org/*\"]\n", true),
        ("[secrets.restic]\nfile = \"/p\"\nenv = \"P\"\nrepositories = [\"*\"]\n", false),
        ("tls = \"pin\"\n", false),
        ("offline_grace = 60\n", false),
        ("sever = \"x\"\n", false),
        ("[policy]\nkinds = [\"bakcup\"]\n", false),
        ("[policy]\nbackup_roots = [\"etc\"]\n", false),
        ("[proxy]\nurl = \"http://u:p@proxy\"\n", false),
    ];
    for (more, is_right) in rows {
        let found = judge.complaints(SchemaKind::Agent, &format!("{head}{more}"));
        assert_eq!(found.is_empty(), is_right, "{more}: {found:?}");
    }
    assert!(!judge.complaints(SchemaKind::Agent, "host = \"web-1\"\n").is_empty());
}

/// The tables of a schema that take known keys only: how one is written around `{}`, and its keys.
fn tables(document: &Value, schema: &Value, around: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let at = schema["$ref"].as_str().map(|at| at.trim_start_matches('#').to_owned());
    let schema = at.map_or(schema, |at| document.pointer(&at).expect("it leads somewhere"));
    let inside = |key: &str| around.replace("{}", &format!("{{ {key} = {{}} }}"));
    let properties = schema["properties"].as_object();
    if schema["additionalProperties"] == json!(false) {
        found.insert(around.to_owned(), properties.into_iter().flatten().map(|(key, _)| key.clone()).collect());
    }
    for (key, value) in properties.into_iter().flatten() {
        tables(document, value, &inside(key), found);
    }
    if schema["items"].is_object() {
        tables(document, &schema["items"], &around.replace("{}", "[{}]"), found);
    }
    if schema["additionalProperties"].is_object() {
        tables(document, &schema["additionalProperties"], &inside("any"), found);
    }
    for one in schema["anyOf"].as_array().into_iter().flatten() {
        tables(document, one, around, found);
    }
}

#[test]
fn the_schemas_and_the_reader_know_the_same_keys() {
    let files = [
        (SchemaKind::Server, "server.toml"),
        (SchemaKind::Host, "hosts/a.toml"),
        (SchemaKind::Group, "groups/a.toml"),
        (SchemaKind::Repository, "repositories/a.toml"),
    ];
    let mut count = 0;
    for (kind, file) in files {
        let document = schema(kind);
        let mut found = BTreeMap::new();
        tables(&document, &document, "{}", &mut found);
        for (around, keys) in found {
            // The outermost table is the file itself.
            let text = around.replace("{}", "{ zzzzzzzzzzzz = 1 }");
            let text = text.strip_prefix("{ ").and_then(|text| text.strip_suffix(" }")).expect("a table").to_owned();
            let (_, problems) = load(&Files::from([(file.to_owned(), text.clone())]));
            let told = problems.iter().find_map(|problem| {
                problem.message.split_once("zzzzzzzzzzzz; known here are ").map(|(_, known)| known.to_owned())
            });
            let told = told.unwrap_or_else(|| unreachable!("{file}: {text}: {}", lines(&problems)));
            let known: BTreeSet<String> = told.split(", ").map(str::to_owned).collect();
            assert_eq!(known, keys, "{file}: {text}");
            count += 1;
        }
    }
    assert!(count >= 20, "{count} tables were compared");
}

#[test]
fn every_key_says_what_it_is_for() {
    fn undescribed(document: &Value, schema: &Value, at: &str, found: &mut Vec<String>) {
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let reference = value["$ref"].as_str().map_or("", |at| at.trim_start_matches('#'));
            let target = document.pointer(reference).unwrap_or(value);
            if value["description"].is_null() && (reference.is_empty() || target["description"].is_null()) {
                found.push(format!("{at}.{key}"));
            }
            undescribed(document, value, &format!("{at}.{key}"), found);
        }
    }
    let mut found = Vec::new();
    for kind in KINDS {
        let document = schema(kind);
        assert!(jsonschema::meta::is_valid(&document), "{kind:?}");
        undescribed(&document, &document, &format!("{kind:?}"), &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
