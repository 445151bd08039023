use super::*;
use crate::protocol::text::Span;

fn problems_of<T>(text: &str, read: impl FnOnce(&mut TableReader<'_>) -> T) -> (T, Vec<String>) {
    let mut problems = Vec::new();
    let (value, _) = read_document("f.toml", text, &mut problems, read);
    (value, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn values_come_with_their_places() {
    let (value, problems) = problems_of("a = 1\n[t]\nb = \"30m\"\n", |top| {
        (top.integer("a", 0..=9), top.table("t", |t| t.parsed::<Span>("b")))
    });
    assert_eq!(problems, [""; 0]);
    assert_eq!(value.0, Some(Placed { value: 1, place: Place { line: 1, column: 5 } }));
    let span = value.1.expect("the table").value.expect("the span");
    assert_eq!((span.value.as_secs(), span.place), (1800, Place { line: 3, column: 5 }));
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "a = 11\nb = 1\nc = [\"x\", 2]\nd = \"rad\"\nsplai = \"3m\"\n[[e]]\nf = \"soon\"\n";
    let (_, problems) = problems_of(text, |top| {
        top.integer("a", 0..=9);
        top.string("b");
        top.strings("c");
        top.choice("d", &[("red", 1), ("green", 2)]);
        top.string("splay");
        top.tables("e", |e| e.parsed::<Span>("f"));
    });
    let expected = [
        "f.toml:1:5: error: a must be 0 to 9, not 11",
        "f.toml:2:5: error: b must be text in quotes, not a whole number",
        "f.toml:3:11: error: c must be a list of texts in quotes, not a whole number",
        "f.toml:4:5: error: d is one of red, green, not \"rad\"; did you mean \"red\"?",
        "f.toml:7:5: error: e.f: \"soon\" is not a length of time: write \"90s\", \"30m\", \"2h 30m\", \"1d\" or \"2y\" (whole seconds, at most 100 years)",
        "f.toml:5:1: error: unknown key splai; did you mean splay?",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn broken_syntax_hides_the_problems_that_may_follow_from_it() {
    let (_, problems) = problems_of("a = \nb = 1\n", |top| top.string("b"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("f.toml:1:") && problems[0].contains("not valid TOML"), "{problems:?}");
}

#[test]
fn a_file_full_of_problems_does_not_flood() {
    let text: String = (0..5_000).map(|n| format!("key{n} = 1\n")).collect();
    let (_, problems) = problems_of(&text, |_| ());
    assert_eq!(problems.len(), place::PROBLEMS_PER_FILE + 1);
}

#[test]
fn deep_nesting_is_a_problem_and_no_crash() {
    for text in [
        "a.".repeat(100_000) + "a = 1",
        "a = ".to_owned() + &"[".repeat(100_000),
        "[a".to_owned() + &".a".repeat(100_000) + "]",
    ] {
        let (_, problems) = problems_of(&text, |top| top.accept_anything());
        assert!(!problems.is_empty());
    }
}
