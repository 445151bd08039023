//! The sample files, damaged: cut at every byte, and with random bytes changed, dropped, doubled and swapped.
//! None may crash the loading. Damage that leaves no TOML must be an error. That nothing damaged is delivered
//! afterwards is the server's test.

use std::collections::BTreeMap;
use std::path::Path;

use restic_manager::server::fleet::load::{has_errors, load};
use restic_manager::server::fleet::read_tree::{ReadBefore, read_tree};
use restic_manager::server::fleet::schedule_set::{config_update_of, schedules_of};

use crate::damage::{Rng, mutate};

type Files = BTreeMap<String, String>;

pub(crate) fn sample() -> Files {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let (files, problems) = read_tree(&directory, &mut ReadBefore::default());
    assert!(problems.is_empty(), "{problems:?}");
    files.into_iter().map(|(path, text)| (path, text.to_string())).collect()
}

/// Loads the sample with one file replaced, and checks what holds for any input.
fn load_with(files: &mut Files, name: &str, text: String) -> bool {
    // Another parse than ours decides what is TOML.
    let is_toml = toml::from_str::<toml::Table>(&text).is_ok();
    let original = files.insert(name.to_owned(), text);
    let (fleet, problems) = load(files);
    let refused = has_errors(&problems);
    let text = &files[name];
    assert!(is_toml || refused || name == "agent.toml", "{name} is no TOML and accepted:\n{text}");
    for problem in &problems {
        let lines = u32::try_from(text.split('\n').count()).expect("few lines");
        assert!(problem.file != name || problem.line <= lines, "{problem}\n{text}");
        assert!(!problem.message.is_empty() && !problem.message.chars().any(char::is_control), "{problem:?}");
    }
    if !refused {
        for host in fleet.hosts.values() {
            let update = config_update_of(&fleet, host, &Default::default());
            let schedules = schedules_of(host);
            // A host may maintain repositories without one of its own.
            let mut own = schedules.iter().filter(|schedule| !schedule.id.as_str().starts_with("maintenance:"));
            assert!(own.next().is_none() || update.repo_url.is_some_and(|url| !url.is_empty()), "{name}\n{text}");
            assert!(schedules.windows(2).all(|pair| pair[0].id < pair[1].id));
        }
    }
    if let Some(original) = original {
        files.insert(name.to_owned(), original);
    }
    refused
}

#[test]
fn a_sample_cut_at_any_byte_never_crashes_and_is_refused_where_it_is_no_toml() {
    let mut files = sample();
    let (mut refused, mut cuts) = (0, 0);
    for (name, text) in files.clone() {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            cuts += 1;
            refused += usize::from(load_with(&mut files, &name, text[..end].to_owned()));
        }
    }
    // The positive control: cuts do damage.
    assert!(refused > cuts / 10, "{refused} of {cuts} refused");
}

#[test]
fn a_mutated_sample_never_crashes_and_is_refused_where_it_is_no_toml() {
    let count = std::env::var("RESTIC_MANAGER_FLEET_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let mut files = sample();
    let names: Vec<String> = files.keys().filter(|name| *name != "agent.toml").cloned().collect();
    let mut rng = Rng::new(0x5EED);
    let mut refused = 0;
    for _ in 0..count {
        let name = &names[rng.below(names.len())];
        let text = mutate(&files[name], &mut rng);
        refused += usize::from(load_with(&mut files, name, text));
    }
    // The positive control: mutations do damage.
    assert!(refused > count / 10, "{refused} of {count} refused");
}
