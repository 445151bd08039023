//! Edge. What starting, asking to stop and killing a program means on each system: process groups, signals and the death signal on
//! Unix, creation flags on Windows. Does not read output or wait.

#[cfg(unix)]
pub(super) use unix::*;
#[cfg(windows)]
pub(super) use windows::*;

#[cfg(unix)]
mod unix {
    #[cfg(target_os = "linux")]
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use tokio::process::Command;

    use super::super::Exit;

    pub(in super::super) fn exit_of(status: ExitStatus) -> Exit {
        // One of both is always there for a process that has ended.
        status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code)
    }

    /// Its own process group, so that what it starts can be reached too; on Linux it dies with us.
    pub(in super::super) fn keep_together(command: &mut Command) {
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
    pub(in super::super) fn heed_interrupts() {
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

    pub(in super::super) fn interrupt_group(pid: u32) -> bool {
        signal_group(pid, rustix::process::Signal::INT)
    }

    pub(in super::super) fn kill_group(pid: u32) {
        signal_group(pid, rustix::process::Signal::KILL);
    }

    fn signal_group(pid: u32, signal: rustix::process::Signal) -> bool {
        // 0 would be our own group, and 1 everything.
        let group = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(rustix::process::Pid::from_raw);
        group.is_some_and(|group| rustix::process::kill_process_group(group, signal).is_ok())
    }
}

#[cfg(windows)]
mod windows {
    use std::process::ExitStatus;

    use tokio::process::Command;

    use super::super::Exit;

    pub(in super::super) fn exit_of(status: ExitStatus) -> Exit {
        Exit::Code(status.code().unwrap_or(-1))
    }

    pub(in super::super) fn keep_together(command: &mut Command) {
        const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
        const CREATE_NO_WINDOW: u32 = 0x0800_0000;
        command.creation_flags(CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW);
    }

    pub(in super::super) fn heed_interrupts() {}

    /// Not in this version: a service has no console to send CTRL_BREAK from.
    pub(in super::super) fn interrupt_group(_pid: u32) -> bool {
        false
    }

    /// The supervisor kills the program itself.
    pub(in super::super) fn kill_group(_pid: u32) {}
}
