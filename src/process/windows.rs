//! Edge. Windows' ways of a program's life: a job object ends it with everything it started, and a helper process of ours sends it
//! CTRL_BREAK, since a service has no console to send it from. Does not read output or wait.

use std::os::windows::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;

use tokio::process::{Child, Command};
use win32job::{ExtendedLimitInfo, Job, JobError};

use super::Exit;

const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
/// A console of its own that nobody sees. CTRL_BREAK reaches a program only through one.
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// The hidden command of both our programs that sends CTRL_BREAK; its argument is the number of the process.
pub const SEND_BREAK: &str = "send-break";

/// A program and what it started, while the program runs.
#[derive(Debug)]
pub(super) struct Tree {
    pid: u32,
    /// The kernel ends all that is in it when the handle is closed, so also when we are killed.
    job: Mutex<Option<Job>>,
}

impl Tree {
    /// What the program starts before this call is not in the job: it has microseconds, and `end_with_us` has that at our end.
    pub(super) fn of(child: &Child) -> Self {
        let job = killing_job().and_then(|job| match child.raw_handle() {
            Some(handle) => job.assign_process(handle as isize).map(|()| Some(job)),
            None => Ok(None),
        });
        let job = job.unwrap_or_else(|error| {
            tracing::error!(%error, "a program has no job object: what it starts may outlive it");
            None
        });
        Self { pid: child.id().unwrap_or_default(), job: Mutex::new(job) }
    }

    /// True where the helper was started; whether the program heeds it shows by the caller's deadline.
    pub(super) fn interrupt(&self) -> bool {
        let Ok(us) = std::env::current_exe() else { return false };
        #[allow(clippy::disallowed_methods, reason = "the helper is ours, and nobody waits for it")]
        let helper = std::process::Command::new(us)
            .args([SEND_BREAK, &self.pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .creation_flags(CREATE_NO_WINDOW)
            .spawn();
        self.pid != 0 && helper.is_ok()
    }

    pub(super) fn kill(&self) {
        // Closing its only handle ends everything in it.
        if let Ok(mut job) = self.job.lock() {
            *job = None;
        }
    }
}

fn killing_job() -> Result<Job, JobError> {
    let mut limits = ExtendedLimitInfo::new();
    limits.limit_kill_on_job_close();
    Job::create_with_limit_info(&limits)
}

/// Everything that this process starts from now on ends with it, however it ends. Called once, at the start.
pub fn end_with_us() {
    static OURS: Mutex<Option<Job>> = Mutex::new(None);
    match killing_job().and_then(|job| job.assign_current_process().map(|()| job)) {
        Ok(job) => {
            if let Ok(mut ours) = OURS.lock() {
                *ours = Some(job);
            }
        }
        Err(error) => tracing::warn!(%error, "no job object for this process: what it starts may outlive it"),
    }
}

/// What the helper does: joins the process' console and sends CTRL_BREAK to its group, which has its number.
///
/// # Errors
/// There is no such process, it has no console, or it may not be joined.
pub fn send_break(pid: u32) -> std::io::Result<()> {
    use windows_sys::Win32::System::Console::{AttachConsole, CTRL_BREAK_EVENT, FreeConsole, GenerateConsoleCtrlEvent};
    #[allow(unsafe_code, reason = "the crate's other exception: no safe library sends CTRL_BREAK")]
    // SAFETY: three plain calls into kernel32 that take numbers, no pointers, and touch no memory of ours.
    let sent = unsafe {
        FreeConsole();
        AttachConsole(pid) != 0 && GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid) != 0
    };
    if sent { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

pub(super) fn exit_of(status: ExitStatus) -> Exit {
    Exit::Code(status.code().unwrap_or(-1))
}

pub(super) fn keep_together(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW);
}

pub(super) fn heed_interrupts() {}
