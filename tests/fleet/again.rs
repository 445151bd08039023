//! Loads that remember the one before: they give what a load without memory gives, and leave alone what an edit does not touch.

use std::sync::Arc;

use restic_manager::server::fleet::Fleet;
use restic_manager::server::fleet::load::{Texts, load, load_again};
use restic_manager::server::fleet::remembered::Remembered;

use super::damage::{Rng, mutate};
use super::mutate::sample;
use super::{Files, cases};

fn texts(files: &Files) -> Texts {
    files.iter().map(|(path, text)| (path.clone(), text.as_str().into())).collect()
}

/// The same answer with and without memory.
fn loaded(files: &Files, memory: &mut Remembered, what: &str) -> Fleet {
    let (fleet, problems) = load_again(&texts(files), memory);
    let (cold, cold_problems) = load(files);
    assert_eq!(problems, cold_problems, "{what}");
    assert!(fleet == cold, "{what}: the fleet with memory differs");
    fleet
}

#[test]
fn a_load_that_remembers_gives_what_one_without_memory_gives() {
    let mut memory = Remembered::default();
    // From each fleet to quite another one of files with the same names.
    for (path, files, _) in cases("good").into_iter().chain(cases("bad")) {
        loaded(&files, &mut memory, &path.display().to_string());
    }
    let (mut files, mut rng) = (sample(), Rng::new(42));
    let original = files.clone();
    let names: Vec<String> = files.keys().cloned().collect();
    for step in 0..1500 {
        let name = &names[rng.below(names.len())];
        match rng.below(4) {
            0 => drop(files.remove(name)),
            1 => drop(files.insert(name.clone(), mutate(&original[name], &mut rng))),
            _ => drop(files.insert(name.clone(), original[name].clone())),
        }
        loaded(&files, &mut memory, &format!("step {step}, {name}"));
    }
}

#[test]
fn an_edit_leaves_the_hosts_alone_that_it_does_not_touch() {
    let schedule = "[[schedule]]\nid = \"x\"\nkind = \"backup\"\ncron = \"@daily\"\npaths = [\"/etc\"]\n";
    let mut files: Files = [
        ("repositories/main.toml", "url = \"/srv\"\npassword = { file = \"/run/secrets/p\" }\n".to_owned()),
        ("groups/linux.toml", schedule.to_owned()),
        ("hosts/a.toml", "groups = [\"linux\"]\nrepository = \"main\"\n".to_owned()),
        ("hosts/b.toml", "groups = [\"linux\"]\nrepository = \"main\"\n".to_owned()),
        ("hosts/c.toml", format!("repository = \"main\"\n{schedule}")),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into();
    let mut memory = Remembered::default();
    let first = loaded(&files, &mut memory, "at first");
    let touched = |before: &Fleet, after: &Fleet| -> Vec<String> {
        let hosts = after.hosts.iter().filter(|(name, host)| !Arc::ptr_eq(host, &before.hosts[*name]));
        hosts.map(|(name, _)| name.as_str().to_owned()).collect()
    };
    files.insert("hosts/b.toml".to_owned(), "groups = [\"linux\"]\nrepository = \"main\"\ntags = [\"t\"]\n".to_owned());
    let second = loaded(&files, &mut memory, "one host");
    assert_eq!(touched(&first, &second), ["b"]);
    files.insert("groups/linux.toml".to_owned(), schedule.replace("@daily", "@hourly"));
    let third = loaded(&files, &mut memory, "one group");
    assert_eq!(touched(&second, &third), ["a", "b"]);
    files.insert("repositories/main.toml".to_owned(), "url = \"/mnt\"\npassword = { file = \"/p\" }\n".to_owned());
    let fourth = loaded(&files, &mut memory, "the repository");
    assert_eq!(touched(&third, &fourth), Vec::<String>::new());
}
