//! What takes safeguards away and makes things fail, from outside of the programs: a shim for libc's calls, strace, and mounts in
//! a namespace of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::harness::{eventually, text};

/// The shim of tests/tools/lie.c, compiled once.
pub(crate) fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/lie.c");
        // Test runs beside this one compile their own.
        let shim = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lie-{}.so", std::process::id()));
        run("cc", &["-shared", "-fPIC", "-O1", "-Wall", "-o", text(&shim), text(&source), "-ldl"]);
        shim
    })
}

/// The environment of a program that is lied to: see lie.c for the names.
pub(crate) fn lied_to(lies: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("LD_PRELOAD", text(shim())), ("RESTIC_MANAGER_LIE", lies)]
}

/// Runs a program to its end, which must be success; gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Says in one line why a bar is left out here; in CI it fails instead.
fn left_out(name: &str, reason: &str) {
    assert!(std::env::var("CI").is_err(), "{name} cannot run: {reason}");
    eprintln!("{name} is left out: {reason}");
}

/// Whether these programs are there; a bar that needs one that is not there is left out.
pub(crate) fn has(name: &str, programs: &[&str]) -> bool {
    let is_there = |program: &&&str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
    };
    match programs.iter().find(|program| !is_there(program)) {
        Some(program) => left_out(name, &format!("{program} is not installed")),
        None if programs.contains(&"strace") && !rustix::process::geteuid().is_root() => {
            left_out(name, "only root may have strace look at a server that runs");
        }
        None => return true,
    }
    false
}

const INSIDE: &str = "RESTIC_MANAGER_BARS_INSIDE";

/// Runs `body` in a mount namespace of its own, whose mounts (and loop devices) go when its last process ends, however it
/// ends: the test `name` is started again within `unshare`.
pub(crate) fn in_a_mount_namespace(name: &str, programs: &[&str], body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body();
    }
    let unshared = ["-m", "--propagation", "private"];
    if !has(name, &["unshare", "mount", "umount"]) || !has(name, programs) {
        return;
    }
    let allowed = Command::new("unshare").args(unshared).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return left_out(name, "mounts need root");
    }
    let this = std::env::current_exe().expect("this program");
    let mut again = Command::new("unshare");
    again.args(unshared).arg(this).args([name, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, name);
    let output = again.stdin(Stdio::null()).output().expect("unshare runs");
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{told}\n{errors}");
    for line in errors.lines().filter(|line| line.starts_with("P1")) {
        eprintln!("{line}");
    }
}

/// A mount that goes with its value.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// `mount ARGUMENTS AT`.
    pub(crate) fn new(arguments: &[&str], at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("a directory");
        // Others look for a free loop device at the same time.
        eventually("the mount", Duration::from_secs(10), || {
            Command::new("mount").args(arguments).arg(at).output().expect("mount runs").status.success().then_some(())
        });
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What a process that was killed had open is let go a moment later.
        for _ in 0..40 {
            if Command::new("umount").arg(&self.at).output().is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

/// strace, attached to all threads of a process until it is dropped; what it saw is in a file.
pub(crate) struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    pub(crate) fn attach(pid: u32, log: &Path, arguments: &[&str]) -> Self {
        let mut strace = Command::new("strace");
        // Paths of descriptors, and data as far as the bars' lines are long.
        strace.args(["-f", "-ttt", "-y", "-s", "16384", "-o", text(log), "-p", &pid.to_string()]).args(arguments);
        let child =
            strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace runs");
        let strace = Self { child, log: log.to_owned() };
        eventually("strace is attached", Duration::from_secs(10), || is_traced(pid).then_some(()));
        strace
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Detaches, and gives all that it saw.
    pub(crate) fn end(mut self) -> String {
        self.stop();
        self.text()
    }

    fn stop(&mut self) {
        let _ = Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]).output();
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_traced(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map(|tasks| tasks.flatten().collect::<Vec<_>>());
    threads.is_ok_and(|threads| {
        threads.iter().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
        })
    })
}

#[test]
fn the_shim_is_believed() {
    if !has("the_shim_is_believed", &["cc", "flock"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("lock");
    let twice = |environment: Vec<(&str, &str)>| {
        let arguments = ["-n", text(&file), "flock", "-n", text(&file), "true"];
        Command::new("flock").args(arguments).envs(environment).status().expect("flock runs").success()
    };
    assert!(!twice(Vec::new()), "a lock is held once");
    assert!(twice(lied_to("noflock")), "and twice where flock lies");
    assert!(!twice(lied_to("nosync")), "only the lie that is asked for");
}
