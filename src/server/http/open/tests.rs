//! The document against the table of operations: the same operations with the same access, every parameter declared, every
//! reference leading somewhere, and the problems that follow from what an operation takes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::OPENAPI;
use crate::server::access::Role;
use crate::server::http::routes::{Access, Operation, Reach};

/// Pages are for browsers, and not in the document.
fn operations() -> impl Iterator<Item = &'static Operation> {
    crate::server::http::routes::operations().iter().filter(|operation| !operation.is_page)
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the document is JSON")
}

/// Every operation of the document: path, method in capitals, its object.
fn entries(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &'_ Value)| {
        let methods = item.as_object().expect("an object").keys().filter(|key| *key != "parameters");
        methods.map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
    };
    let all = paths.iter().flat_map(of_path).collect::<Vec<_>>();
    all.into_iter()
        .map(|(path, method)| {
            let entry = &document["paths"][&path][method.to_lowercase()];
            (path, method, entry)
        })
        .collect()
}

fn entry<'a>(document: &'a Value, operation: &Operation) -> &'a Value {
    &document["paths"][operation.path][operation.method.as_str().to_lowercase()]
}

/// The value itself, or what its `$ref` points to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    value["$ref"].as_str().map_or(value, |reference| {
        let pointer = reference.strip_prefix('#').expect("within the document");
        document.pointer(pointer).unwrap_or_else(|| unreachable!("{reference} leads nowhere"))
    })
}

/// The declared parameters of a kind, by name.
fn parameters(document: &Value, operation: &Operation, place: &str) -> BTreeSet<String> {
    let of_path = &document["paths"][operation.path]["parameters"];
    let lists = [of_path, &entry(document, operation)["parameters"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten().map(|one| resolved(document, one));
    all.filter(|one| one["in"] == place).map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn the_document_and_the_table_have_the_same_operations() {
    let document = document();
    let documented: BTreeSet<_> = entries(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
    let real = operations().map(|o| (o.path.to_owned(), o.method.to_string())).collect();
    assert_eq!(documented, real);
}

#[test]
fn everyone_is_told_who_may_use_an_operation_as_the_table_has_it() {
    let document = document();
    for operation in operations() {
        let (access, reach) = match operation.access() {
            Access::Open => ("open", None),
            Access::EnrollmentToken => ("enrollment-token", None),
            Access::Agent => ("agent", None),
            Access::Operator(role, reach) => (
                match role {
                    Role::Viewer => "viewer",
                    Role::Operator => "operator",
                    Role::Admin => "admin",
                },
                Some(match reach {
                    Reach::Host => "host",
                    Reach::List => "list",
                    Reach::Fleet => "fleet",
                }),
            ),
        };
        let entry = entry(&document, operation);
        let place = format!("{} {}", operation.method, operation.path);
        assert_eq!((entry["x-access"].as_str(), entry["x-reach"].as_str()), (Some(access), reach), "{place}");
        let schemes = entry["security"].as_array().expect("always said").len();
        assert_eq!(schemes > 0, !matches!(operation.access(), Access::Open | Access::EnrollmentToken), "{place}");
    }
}

#[test]
fn parameters_are_declared_and_problems_follow_from_what_is_taken() {
    let document = document();
    for operation in operations() {
        let place = format!("{} {}", operation.method, operation.path);
        let declared = parameters(&document, operation, "path");
        assert_eq!(declared, operation.path_parameters().map(str::to_owned).collect(), "{place}");
        let declared_query = parameters(&document, operation, "query");
        assert_eq!(declared_query, operation.query.iter().map(|name| (*name).to_owned()).collect(), "{place}");
        let entry = entry(&document, operation);
        let has = |status: &str| entry["responses"].get(status).is_some();
        let takes_body = entry.get("requestBody").is_some();
        for (status, wanted) in [
            // Operators are told of any parameter that is not there.
            ("400", takes_body || !declared_query.is_empty() || matches!(operation.access(), Access::Operator(..))),
            ("401", matches!(operation.access(), Access::Agent | Access::Operator(..))),
            ("404", !declared.is_empty()),
            ("408", takes_body),
            ("413", takes_body),
            ("422", takes_body),
        ] {
            assert!(has(status) || !wanted, "{place}: {status} can occur");
        }
        if let Access::Operator(role, reach) = operation.access() {
            assert_eq!(has("403"), role > Role::Viewer || reach == Reach::Fleet, "{place}");
        }
        assert!(entry["responses"].as_object().expect("some").keys().any(|status| status.starts_with('2')), "{place}");
    }
}

#[test]
fn operation_ids_differ_and_every_problem_is_of_one_form() {
    let document = document();
    let all = entries(&document);
    let ids: BTreeSet<&str> = all.iter().filter_map(|(_, _, entry)| entry["operationId"].as_str()).collect();
    assert_eq!(ids.len(), all.len());
    for (path, method, entry) in &all {
        for (status, response) in entry["responses"].as_object().expect("responses") {
            let content = &resolved(&document, response)["content"];
            let is_problem = content.get("application/problem+json").is_some();
            assert_eq!(is_problem, status.as_str() >= "400", "{method} {path} {status}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used_or_is_a_message() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    for kind in ["parameters", "responses", "schemas"] {
        for name in document["components"][kind].as_object().expect("components").keys() {
            let is_message = name.contains('.');
            assert!(is_message || found.contains(&format!("#/components/{kind}/{name}")), "{kind} {name} is unused");
        }
    }
}
