//! Edge. Asks git whether the fleet's files are those of the commit. Its answer is what `git_text::standing` reads; without one it is
//! unknown, which is no reason not to run a configuration. Does not read git's files: `git_tree` does.

use std::path::Path;
use std::time::Duration;

use super::git_tree::GitTree;
use crate::process::{Exit, Program, RunError, StartError, run_to_end};

/// As long as this may take; a work tree of 11,000 files takes some tens of milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// What git needs of our environment: to be found, and to find its user's settings, which say what may be trusted.
const ENVIRONMENT: [&str; 7] = ["PATH", "HOME", "XDG_CONFIG_HOME", "USERPROFILE", "SYSTEMROOT", "SYSTEMDRIVE", "TEMP"];

/// The output of `git status` for the directory, or why there is none, for people. Changes nothing, takes no lock.
///
/// Call from a thread that lives as long as the process (see `process::start`).
pub async fn status(git: &GitTree, directory: &Path) -> Result<String, String> {
    let arguments = [
        // Neither of them may start a program or write an index.
        "--no-optional-locks",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.untrackedCache=false",
        "status",
        "--porcelain",
        "-z",
        "--no-renames",
        "--untracked-files=normal",
        "--ignored=traditional",
        "--ignore-submodules=all",
        "--",
        ".",
    ];
    let ours = ENVIRONMENT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let program = Program {
        program: "git".into(),
        arguments: arguments.map(str::to_owned).into(),
        environment: ours.chain([("LC_ALL".to_owned(), "C".to_owned())]).collect(),
        directory: Some(directory.to_owned()),
    };
    let top = git.top.display();
    match run_to_end(&program, DEADLINE).await {
        Ok(done) if done.exit == Exit::Code(0) => Ok(done.stdout),
        Ok(done) => {
            let said = done.stderr.lines().next().unwrap_or("nothing").chars().take(200).collect::<String>();
            let remedy = if done.stderr.contains("dubious ownership") {
                format!(", until the server's user runs: git config --global --add safe.directory {top}")
            } else {
                String::new()
            };
            Err(format!("git status in {top} ended with {} and said: {said}{remedy}", done.exit))
        }
        Err(RunError::Start(StartError::NotFound { .. })) => Err(format!(
            "{top} is a git work tree, and there is no program git on the server's PATH to ask: install it"
        )),
        Err(error) => Err(format!("git status in {top}: {error}")),
    }
}
