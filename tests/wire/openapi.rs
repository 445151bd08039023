//! The samples against the schemas of /openapi.json: what is on the wire is what the document says, field by field.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::schema::{complaints, document};

fn schema_of(name: &str) -> &str {
    match name {
        "hello-answer" => "HelloAnswer",
        "acknowledged" | "acknowledged-log" => "Acknowledged",
        "poll-answer" | "poll-answer-empty" | "poll-answer-superseded" => "PollAnswer",
        "problem" | "problem-least" => "Problem",
        "command.run-copy" | "command.run-forget" | "command.run-verify" => "command.run",
        message => message,
    }
}

#[test]
fn every_sample_is_as_the_document_says() {
    let document = document();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/samples")).expect("samples") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let sample: Value = serde_json::from_str(&fs::read_to_string(&path).expect("text")).expect("JSON");
        let schema = &document["components"]["schemas"][schema_of(name)];
        assert!(schema.is_object(), "{name} has no schema");
        let value = sample.get("payload").unwrap_or(&sample);
        assert_eq!(complaints(&document, schema, value, name), Vec::<String>::new());
    }
}

#[test]
fn a_field_that_the_document_lacks_or_has_otherwise_is_found() {
    let document = document();
    let schema = &document["components"]["schemas"]["heartbeat"];
    for wrong in [
        json!({}),
        json!({"sent_at": 5}),
        json!({"sent_at": "now"}),
        json!({"sent_at": "2026-01-01T00:00:00Z", "x": 1}),
    ] {
        assert_eq!(complaints(&document, schema, &wrong, "heartbeat").len(), 1, "{wrong}");
    }
}
