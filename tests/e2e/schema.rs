//! As much of JSON Schema as our own document uses, and stricter: a field that the document does not have is a complaint, where a
//! client would pass over it. Not a test itself.

use serde_json::Value;

/// The document that the server serves.
pub(crate) fn document() -> Value {
    serde_json::from_str(restic_manager::server::http::open::OPENAPI).expect("the document is JSON")
}

/// The value, or what its `$ref` points to.
pub(crate) fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    document.pointer(&reference[1..]).unwrap_or_else(|| unreachable!("{reference} leads nowhere"))
}

/// What of `value` is not as `schema` says. `at` is where the value stands.
pub(crate) fn complaints(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = choices.iter().any(|choice| complaints(document, choice, value, at).is_empty());
        return if fits { Vec::new() } else { vec![format!("{at}: {value} fits none of its schemas")] };
    }
    let mut found = Vec::new();
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of_type(name, value)) {
        found.push(format!("{at}: {value} is no {}", types.join(" or ")));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    if let Some(text) = value.as_str() {
        let fits = match schema["format"].as_str() {
            Some("uuid") => uuid::Uuid::parse_str(text).is_ok_and(|id| id.to_string() == text),
            Some("date-time") => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
            _ => true,
        };
        if !fits {
            found.push(format!("{at}: {value} is no {}", schema["format"]));
        }
    }
    for entry in value.as_array().into_iter().flatten() {
        found.extend(complaints(document, &schema["items"], entry, &format!("{at}[]")));
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if value.is_object() {
        found.extend(required.filter(|name| value.get(name).is_none()).map(|name| format!("{at}: lacks {name}")));
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let place = format!("{at}.{name}");
        let rest = &schema["additionalProperties"];
        match schema["properties"].get(name) {
            Some(known) => found.extend(complaints(document, known, field, &place)),
            None if rest.is_object() => found.extend(complaints(document, rest, field, &place)),
            None if schema["properties"].is_object() => found.push(format!("{place} is not in the document")),
            // Of any form.
            None => {}
        }
    }
    found
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => unreachable!("a type that the document should not have: {other}"),
    }
}
