//! Pure itself. `restic-manager schema`: the JSON Schema (draft 2020-12) of each kind of file, for completion and validation in
//! editors. The schemas are the files beside this one; a group's is a host's without groups. They see what is wrong within one
//! file's shape: `check` sees the rest. `tests/fleet/schemas.rs` holds them against the configuration's own reader.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Args)]
pub struct SchemaArguments {
    /// Of which kind of file
    #[arg(value_enum)]
    pub kind: SchemaKind,
}

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// config/server.toml
    Server,
    /// config/hosts/NAME.toml
    Host,
    /// config/groups/NAME.toml
    Group,
    /// config/repositories/NAME.toml
    Repository,
    /// agent.toml, on a host
    Agent,
}

/// Prints the schema. An error is one of printing.
pub fn run(arguments: &SchemaArguments, out: &mut impl Write) -> io::Result<u8> {
    writeln!(out, "{:#}", schema(arguments.kind))?;
    Ok(0)
}

/// The whole schema, which refers to nothing outside of itself.
pub fn schema(kind: SchemaKind) -> Value {
    let mut schema = parsed(match kind {
        SchemaKind::Server => include_str!("schema/server.json"),
        SchemaKind::Host | SchemaKind::Group => include_str!("schema/host.json"),
        SchemaKind::Repository => include_str!("schema/repository.json"),
        SchemaKind::Agent => include_str!("schema/agent.json"),
    });
    if kind == SchemaKind::Group {
        schema["title"] = "config/groups/NAME.toml".into();
        schema["description"] = "What hosts share that list this group, named as its file.".into();
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("groups");
        }
    }
    let mut shared = parsed(include_str!("schema/shared.json"));
    shared["$defs"]["timezone"]["enum"] = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()).collect();
    let mut definitions = Map::new();
    add_definitions(&schema, &shared["$defs"], &mut definitions);
    schema["$defs"] = Value::Object(definitions);
    schema
}

fn parsed(text: &str) -> Value {
    // Constants, which a test reads.
    serde_json::from_str(text).unwrap_or_default()
}

/// Those that `schema` refers to, and that these refer to.
fn add_definitions(schema: &Value, shared: &Value, definitions: &mut Map<String, Value>) {
    match schema {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(|at| at.as_str()?.strip_prefix("#/$defs/"));
            if let Some(name) = name.filter(|name| !definitions.contains_key(*name)) {
                definitions.insert(name.to_owned(), shared[name].clone());
                add_definitions(&shared[name], shared, definitions);
            }
            map.values().for_each(|value| add_definitions(value, shared, definitions));
        }
        Value::Array(items) => items.iter().for_each(|item| add_definitions(item, shared, definitions)),
        _ => {}
    }
}
