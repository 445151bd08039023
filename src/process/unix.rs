//! Edge. What starting, asking to stop and killing a program means on Unix: process groups, signals and the death signal.
//! Does not read output or wait.

#[cfg(target_os = "linux")]
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use tokio::process::{Child, Command};

use super::Exit;

pub(super) fn exit_of(status: ExitStatus) -> Exit {
    // One of both is always there for a process that has ended.
    status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code)
}

/// Its own process group, so that what it starts can be reached too; on Linux it dies with us.
pub(super) fn keep_together(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
        let parent = getpid();
        let die_with_parent = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Had we died before the line above, no signal would come.
            if getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            Ok(())
        };
        #[allow(unsafe_code, reason = "the crate's one exception: only a hook between fork and exec can set this")]
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes two plain system
        // calls (prctl, getppid), and allocates, locks and panics nowhere: its error is a number.
        unsafe {
            command.pre_exec(die_with_parent);
        }
    }
}

/// A script that starts us in the background has us ignore SIGINT, and an ignored signal stays ignored in what we start:
/// restic could not be asked to stop. A signal that is handled becomes the default one there.
pub(super) fn heed_interrupts() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        // Signal n is bit n - 1; SIGINT is 2. Where it is not ignored, Ctrl-C must go on ending us.
        if ignored & 0b10 != 0 {
            let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        }
    });
}

/// A program's process group.
#[derive(Debug)]
pub(super) struct Tree {
    group: u32,
}

impl Tree {
    pub(super) fn of(child: &Child) -> Self {
        // `id` is absent only after a wait. 0 is never signalled.
        Self { group: child.id().unwrap_or_default() }
    }

    pub(super) fn interrupt(&self) -> bool {
        signal_group(self.group, rustix::process::Signal::INT)
    }

    pub(super) fn kill(&self) {
        signal_group(self.group, rustix::process::Signal::KILL);
    }
}

/// Nothing to do: on Linux each program asks for its death with ours when it starts.
pub fn end_with_us() {}

fn signal_group(pid: u32, signal: rustix::process::Signal) -> bool {
    // 0 would be our own group, and 1 everything.
    let group = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(rustix::process::Pid::from_raw);
    group.is_some_and(|group| rustix::process::kill_process_group(group, signal).is_ok())
}
