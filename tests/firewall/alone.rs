//! Each row runs alone: this program once more, in namespaces of its own (network, mounts, processes), which the kernel takes
//! down with the first process in them, however that ends. So nothing of the machine is touched, and nothing has to be tidied up
//! after a run that was killed. Rows wait more than they work: those that were asked for run several at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use crate::space::{SCRATCH, Space};

/// Rows that run at the same time.
const AT_ONCE: usize = 8;
const INSIDE: &str = "RESTIC_MANAGER_FIREWALL_INSIDE";
/// What would lead requests elsewhere than a row says.
const PROXY_VARIABLES: [&str; 8] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];
/// Of namespaces that end with their first process, which ends with the one that waits for it.
const ALONE: [&str; 12] = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--net",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
];

/// Runs `body` as the test `test` in a space of its own, or says in one line why it is left out; in CI that is a failure.
/// `programs` are names to be found in PATH, or paths.
pub(crate) fn row(test: impl Fn() + Copy, programs: &[&str], body: impl FnOnce(&Space)) {
    let name = name_of(test);
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body(&Space::new());
    }
    let programs = [&["setpriv", "unshare", "ip", "nft", "mount", "curl", "restic"], programs].concat();
    if let Some(missing) = programs.iter().find(|program| !is_there(program)) {
        return left_out(name, &format!("{missing} is not installed"));
    }
    if let Err(reason) = ALLOWED.get_or_init(are_namespaces_allowed) {
        return left_out(name, reason);
    }
    let runs = RUNS.get_or_init(|| start_all(name));
    let (is_well, told) = runs.get(name).expect("it was asked for").wait();
    assert!(is_well, "{told}");
    told.lines().filter(|line| line.starts_with("P16")).for_each(|line| eprintln!("{line}"));
}

static ALLOWED: OnceLock<Result<(), String>> = OnceLock::new();
static RUNS: OnceLock<Runs> = OnceLock::new();
static QUEUE: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Whether each row that was asked for ended well, once it has ended, and what it printed.
type Runs = BTreeMap<&'static str, OnceLock<(bool, String)>>;

/// `firewall::works::a_row` is what the compiler calls `a_row` of the module `works`, and libtest `works::a_row`.
fn name_of<T: Copy>(_: T) -> &'static str {
    let whole = std::any::type_name::<T>();
    whole.split_once("::").map_or(whole, |(_, name)| name)
}

fn is_there(program: &str) -> bool {
    let is_in_path =
        || std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).exists()));
    if program.starts_with('/') { Path::new(program).exists() } else { is_in_path() }
}

fn left_out(name: &str, reason: &str) {
    assert!(std::env::var("CI").is_err(), "{name} cannot run: {reason}");
    eprintln!("{name} is left out: {reason}");
}

fn are_namespaces_allowed() -> Result<(), String> {
    let tried = Command::new(ALONE[0]).args(&ALONE[1..]).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("namespaces need root: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("setpriv: {error}")),
    }
}

/// Begins with all rows that this program was asked for, `name` among them, in the order of their names.
fn start_all(name: &'static str) -> Runs {
    let this = std::env::current_exe().expect("this program");
    let listed =
        Command::new(this).args(std::env::args_os().skip(1)).arg("--list").output().expect("this program runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test")).chain([name]);
    let runs: Runs = names.map(|name| (&*name.to_owned().leak(), OnceLock::new())).collect();
    QUEUE.lock().expect("nobody panicked").extend(runs.keys().rev());
    // A worker waits for the row that it has started: the row would end with its thread.
    (0..AT_ONCE).for_each(|_| drop(std::thread::spawn(work)));
    runs
}

/// One row after the other, until there is none left.
fn work() {
    loop {
        let next = QUEUE.lock().expect("nobody panicked").pop();
        let Some(name) = next else { return };
        let ended = run(name);
        let _ = RUNS.wait()[name].set(ended);
    }
}

fn run(name: &str) -> (bool, String) {
    let Ok(this) = std::env::current_exe() else { return (false, "this program is gone".to_owned()) };
    let mut alone = Command::new(ALONE[0]);
    alone.args(&ALONE[1..]).arg(this).args([name, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, name);
    for name in PROXY_VARIABLES {
        alone.env_remove(name);
    }
    if std::env::var_os("RESTIC_MANAGER_TEST_KEEP").is_none() {
        alone.env("TMPDIR", SCRATCH);
    }
    match alone.stdin(Stdio::null()).output() {
        Err(error) => (false, format!("{name}: {error}")),
        Ok(output) => {
            let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let is_well = output.status.success() && told[0].contains("1 passed");
            (is_well, format!("{name}: {}\n{}", output.status, told.join("\n")))
        }
    }
}
