//! What is printed, and the exit code.

use std::fs;

use super::*;

const REPOSITORY: &str = "url = \"/srv/{host}\"\npassword = { file = \"/run/secrets/{host}\" }\n";
const HOST: &str =
    "repository = \"main\"\n[[schedule]]\nid = \"x\"\nkind = \"backup\"\ncron = \"0 2 * * *\"\npaths = [\"/etc\"]\n";

fn side(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in [("repositories/main.toml", REPOSITORY)].iter().chain(files) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    directory
}

fn plan(old: &[(&str, &str)], new: &[(&str, &str)], json: bool) -> (u8, String) {
    let (old, new) = (side(old), side(new));
    let from = old.path().to_string_lossy().into_owned();
    let credentials = Credentials { token: None, token_file: None, ca_file: None };
    let arguments = PlanArguments { directory: new.path().to_owned(), from: Some(from.clone()), json, credentials };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let sides = runtime.block_on(read(&arguments)).expect("read");
    let mut out = Vec::new();
    let code = run(&arguments, &sides, false, &mut out).expect("printed");
    let text = String::from_utf8(out).expect("text");
    (code, text.replace(&from, "OLD").replace(&*new.path().to_string_lossy(), "NEW"))
}

#[test]
fn nothing_changes_is_told_and_is_zero() {
    let same = [("hosts/a.toml", HOST)];
    assert_eq!(plan(&same, &same, false), (0, "nothing changes from OLD to NEW\n".to_owned()));
}

#[test]
fn changes_are_paragraphs_and_a_summary_and_three() {
    let new = HOST.replace("0 2", "0 3").replace("[\"/etc\"]", "[\"/srv\", \"/etc\"]");
    let old = [("hosts/a.toml", HOST), ("hosts/b.toml", HOST), ("hosts/c.toml", HOST)];
    let new = [("hosts/a.toml", new.as_str()), ("hosts/b.toml", new.as_str()), ("hosts/d.toml", HOST)];
    let expected = "2 hosts: a, b\n  \
        ~ schedule x: cron \"0 2 * * *\" -> \"0 3 * * *\"\n  \
        ~ schedule x: paths +\"/srv\"\n\
        - host c: disabled; history and snapshots stay\n\
        + host d\n  \
        + repository \"main\"\n  \
        + schedule x: kind \"backup\", cron \"0 2 * * *\", paths [\"/etc\"]\n\
        from OLD to NEW: hosts: 1 added, 2 changed, 1 removed, 0 as before\n";
    assert_eq!(plan(&old, &new, false), (3, expected.to_owned()));
    let (code, text) = plan(&old, &new, true);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["changes"], json["hosts"].as_array().map(Vec::len)), (3, &json!(true), Some(4)));
    assert_eq!(
        json["hosts"][0]["schedules"][0]["fields"][0],
        json!({"field": "cron", "from": "0 2 * * *", "to": "0 3 * * *"})
    );
}

#[test]
fn what_is_wrong_with_a_side_is_told_as_check_tells_it_and_is_one() {
    let bad = HOST.replace("0 2", "0 26");
    let (code, text) = plan(&[("hosts/a.toml", HOST)], &[("hosts/a.toml", &bad)], false);
    assert_eq!(code, 1);
    assert!(text.starts_with("hosts/a.toml:5:8: error: cron: \"26\" in the hour field"), "{text}");
    assert!(text.ends_with("NEW has 1 error, so there is nothing to plan\n"), "{text}");
    let (code, text) = plan(&[("hosts/a.toml", &bad)], &[("hosts/a.toml", HOST)], true);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["problems"][0]["side"], &json["problems"][0]["line"]), (1, &json!("from"), &json!(5)));
}
