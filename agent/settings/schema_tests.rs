//! Pure. agent.toml's JSON Schema against its reader: both know the same keys.

use std::collections::BTreeSet;

use serde_json::Value;

use super::parse;

#[test]
fn the_schema_and_the_reader_know_the_same_keys() {
    let schema: Value = serde_json::from_str(include_str!("../../src/cli/schema/agent.json")).expect("JSON");
    let head = "server = \"https://backup.example.org\"\nhost = \"web-1\"\n";
    for (table, place) in [("", ""), ("[proxy]\n", "/properties/proxy"), ("[policy]\n", "/properties/policy")] {
        let problems = parse("agent.toml", &format!("{head}{table}zzzzzzzzzzzz = 1\n")).expect_err("an unknown key");
        let told = problems.iter().find_map(|problem| problem.message.split_once("zzzzzzzzzzzz; known here are "));
        let mut read: BTreeSet<&str> = told.expect("told").1.split(", ").collect();
        if table.is_empty() {
            // Asked for only where it is there.
            read.insert("secrets");
        }
        let keys = schema.pointer(place).and_then(|table| table["properties"].as_object()).expect("a table");
        assert_eq!(read, keys.keys().map(String::as_str).collect(), "{table}");
    }
}
