//! Edge. Runs a backup's hooks around it: the first before restic starts, which it can prevent, the other after whatever became
//! of the backup. Their output goes to the job's log. Does not decide whether they may run: `hook_reference` has.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::process::{self, Exit, Output, Program};
use restic_manager::protocol::agent_event::{JobFinished, JobOutcome, LogSource};
use restic_manager::protocol::job_options::JobSpec;
use restic_manager::protocol::text::Span;

use crate::commands::ended;
use crate::core::Agent;
use crate::hook_reference::{HookReference, hook_reference, is_batch_file};
use crate::restic_run::{Task, log_line, masked};

/// A hook that says nothing else is given up on after this.
const DEFAULT_TIMEOUT: Span = Span::from_secs(30 * 60);

/// Runs the job between its hooks. A `pre_hook` that fails fails the job before restic starts; `post_hook` always runs, and if
/// it fails that is a warning: the backup is what it is.
pub(crate) async fn between_hooks(
    agent: &Agent,
    task: &Task<'_>,
    job: impl Future<Output = JobFinished>,
) -> JobFinished {
    let JobSpec::Backup(options) = task.spec else { return job.await };
    if options.dry_run {
        // What it would do is asked; hooks do things.
        return job.await;
    }
    if crate::commands::permitted(agent, task.spec).is_err() {
        // Refused as a whole, which restic's start says.
        return job.await;
    }
    let timeout = Duration::from_secs(options.hook_timeout.unwrap_or(DEFAULT_TIMEOUT).as_secs());
    let hook = |key: &'static str, text: &str, status: &'static str| {
        let hook = Hook { key, text: text.to_owned(), status, timeout };
        async move { run_hook(agent, task, &hook).await }
    };
    let before = match &options.pre_hook {
        Some(text) => hook("pre_hook", text, "running").await,
        None => Ok(()),
    };
    let mut finished = match before {
        Ok(()) => job.await,
        Err(HookEnd::Cancelled) => ended(task.id, JobOutcome::Cancelled, None),
        Err(HookEnd::Failed(error)) => ended(task.id, JobOutcome::Failed, Some(&error)),
    };
    if let Some(text) = &options.post_hook {
        let status = match finished.status {
            JobOutcome::Succeeded => "succeeded",
            JobOutcome::Failed => "failed",
            JobOutcome::Cancelled => "cancelled",
        };
        match hook("post_hook", text, status).await {
            Ok(()) => {}
            Err(HookEnd::Cancelled) => finished.warnings.push("post_hook was cancelled".to_owned()),
            Err(HookEnd::Failed(error)) => finished.warnings.push(error),
        }
    }
    finished
}

struct Hook {
    key: &'static str,
    text: String,
    /// `RM_JOB_STATUS`.
    status: &'static str,
    timeout: Duration,
}

/// Why what comes after a hook should not.
enum HookEnd {
    Cancelled,
    /// For people, without secrets.
    Failed(String),
}

async fn run_hook(agent: &Agent, task: &Task<'_>, hook: &Hook) -> Result<(), HookEnd> {
    let Hook { key, timeout, .. } = hook;
    let (name, program) = match program(agent, task, hook) {
        Ok(found) => found,
        Err(error) => {
            log_line(agent, task.id, LogSource::Event, &error);
            return Err(HookEnd::Failed(error));
        }
    };
    log_line(agent, task.id, LogSource::Event, &format!("{key} {name} begins"));
    let failed = |what: String| {
        let error = masked(agent, &format!("{key} {name}: {what}"));
        log_line(agent, task.id, LogSource::Event, &error);
        Err(HookEnd::Failed(error))
    };
    let (running, mut output) = match process::start(&program) {
        Ok(started) => started,
        Err(error) => return failed(chain(&error)),
    };
    let deadline = tokio::time::sleep(*timeout);
    tokio::pin!(deadline);
    let mut gave_up = None;
    let exit = loop {
        let line = tokio::select! {
            line = output.recv() => line,
            () = task.cancel.notified(), if gave_up.is_none() => {
                // It and all that it started.
                running.kill_tree();
                gave_up = Some(true);
                continue;
            }
            () = &mut deadline, if gave_up.is_none() => {
                running.kill_tree();
                gave_up = Some(false);
                continue;
            }
        };
        match line {
            None => break Exit::Signal(9),
            Some(Output::Exit(exit)) => break exit,
            Some(Output::Stdout(line)) => log_line(agent, task.id, LogSource::Stdout, &masked(agent, &line)),
            Some(Output::Stderr(line)) => log_line(agent, task.id, LogSource::Stderr, &masked(agent, &line)),
        }
    };
    match (gave_up, exit) {
        (Some(true), _) => {
            log_line(agent, task.id, LogSource::Event, &format!("{key} {name} was cancelled and killed"));
            Err(HookEnd::Cancelled)
        }
        (Some(false), _) => failed(format!(
            "had not ended after hook_timeout = \"{}s\" and was killed with all that it started",
            timeout.as_secs()
        )),
        (None, Exit::Code(0)) => {
            log_line(agent, task.id, LogSource::Event, &format!("{key} {name} ended well"));
            Ok(())
        }
        (None, exit) => failed(format!("ended with {exit}: its output is in the job's log")),
    }
}

/// What is called what in words, and the program.
fn program(agent: &Agent, task: &Task<'_>, hook: &Hook) -> Result<(String, Program), String> {
    let (name, program, arguments) = match hook_reference(&hook.text) {
        HookReference::Named(name) => {
            let path = named_program(&agent.hooks_dir, name).map_err(|why| format!("{}: {why}", hook.key))?;
            let (program, arguments) = started_by(&path);
            (name.to_owned(), program, arguments)
        }
        HookReference::Inline(text) => {
            let received = agent.received.borrow();
            let shell = received.config().hook_shell.clone().filter(|shell| !shell.is_empty());
            let shell = shell.unwrap_or_else(|| "/bin/sh".to_owned());
            let flag = if shell.to_ascii_lowercase().contains("powershell") { "-Command" } else { "-c" };
            ("(inline)".to_owned(), shell.into(), vec![flag.to_owned(), text.to_owned()])
        }
    };
    let kept = ["PATH", "HOME", "LANG", "TZ", "SystemRoot", "SystemDrive", "ProgramFiles", "USERPROFILE"];
    let mut environment: Vec<(String, String)> =
        kept.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
    let schedule = task.schedule_id.map_or(String::new(), ToString::to_string);
    environment.extend([
        ("RM_JOB_ID".to_owned(), task.id.to_string()),
        ("RM_JOB_KIND".to_owned(), task.spec.kind().to_string()),
        ("RM_JOB_STATUS".to_owned(), hook.status.to_owned()),
        ("RM_SCHEDULE_ID".to_owned(), schedule),
    ]);
    Ok((name, Program { program, arguments, environment, directory: None }))
}

/// PowerShell scripts are no programs by themselves.
fn started_by(path: &Path) -> (PathBuf, Vec<String>) {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ps1")) {
        let flags = ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File"];
        let arguments = flags.map(str::to_owned).into_iter().chain([path.to_string_lossy().into_owned()]);
        return ("powershell.exe".into(), arguments.collect());
    }
    (path.to_owned(), Vec::new())
}

/// The hook's program, if nobody but root and the agent's own user can have put it there or can change it.
fn named_program(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let asked = dir.join(name);
    let with_extension = ["exe", "ps1"].into_iter().map(|extension| dir.join(format!("{name}.{extension}")));
    let candidates = std::iter::once(asked.clone()).chain(with_extension.filter(|_| cfg!(windows)));
    let path = candidates.into_iter().find(|path| path.exists());
    let path = path.ok_or_else(|| {
        format!("there is no {}: put the program there, owned by root and executable", asked.display())
    })?;
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    // By what it is, not by the name that led to it.
    if path.to_str().is_none_or(is_batch_file) {
        return Err(format!("{} is a batch file: write it as .ps1 or .exe", path.display()));
    }
    check_rights(&path)?;
    Ok(path)
}

#[cfg(unix)]
fn check_rights(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    for part in path.ancestors() {
        let shown = part.display();
        let metadata = std::fs::metadata(part).map_err(|error| format!("{shown}: {error}"))?;
        if metadata.uid() != 0 && metadata.uid() != own {
            return Err(format!("{shown} belongs to another user, who could have anything run: chown root {shown}"));
        }
        // In a sticky directory (/tmp) others cannot replace what is ours.
        let is_sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0 && part != path;
        if metadata.mode() & 0o022 != 0 && !is_sticky {
            return Err(format!("{shown} can be written by others, who could have anything run: chmod go-w {shown}"));
        }
    }
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err(format!("{0} is no executable file: chmod +x {0}", path.display()));
    }
    Ok(())
}

/// On Windows the installer's ACL of the agent's directory is what counts.
#[cfg(not(unix))]
fn check_rights(_: &Path) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests_of_batch_files {
    use super::*;

    #[test]
    fn a_batch_file_is_refused_and_is_not_found_by_the_name_without_its_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["dump.cmd", "OTHER.BAT"] {
            std::fs::write(dir.path().join(name), "@exit\r\n").expect("written");
            let refusal = named_program(dir.path(), name).expect_err("refused");
            assert!(refusal.contains("batch file") && refusal.contains(".ps1"), "{refusal}");
            let short = name.rsplit_once('.').expect("an end").0;
            assert!(named_program(dir.path(), short).expect_err("absent").contains("there is no"));
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_hook_that_others_could_change_is_not_run() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let hooks = dir.path().join("hooks.d");
        fs::create_dir(&hooks).expect("made");
        let set = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        let program = hooks.join("dump");
        assert!(named_program(&hooks, "dump").expect_err("absent").contains("there is no"));
        fs::write(&program, "#!/bin/sh\n").expect("written");
        set(&hooks, 0o755);
        set(&program, 0o644);
        assert!(named_program(&hooks, "dump").expect_err("not executable").contains("chmod +x"));
        set(&program, 0o755);
        assert!(named_program(&hooks, "dump").is_ok());
        for (path, mode) in [(&program, 0o775), (&hooks, 0o777)] {
            set(path, mode);
            assert!(named_program(&hooks, "dump").expect_err("open").contains("chmod go-w"), "{}", path.display());
            set(path, 0o755);
        }
        // By where a link leads, not by where it is.
        let outside = dir.path().join("outside");
        fs::write(&outside, "#!/bin/sh\n").expect("written");
        set(&outside, 0o777);
        std::os::unix::fs::symlink(&outside, hooks.join("link")).expect("linked");
        assert!(named_program(&hooks, "link").expect_err("open").contains("outside"));
    }
}
