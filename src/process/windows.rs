//! Edge. Windows' ways of a program's life: a job object ends it with everything it started, and a helper process of ours sends it
//! CTRL_BREAK, since a service has no console to send it from. Does not read output or wait.

use std::os::windows::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use win32job::{ExtendedLimitInfo, Job, JobError};

use super::Exit;

const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
/// A console of its own that nobody sees. CTRL_BREAK reaches a program only through one.
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// The exit code of what we killed: one that no program has of its own.
const KILLED: u32 = 0xE000_0009;
/// It makes three calls; a host that is out of breath gets this long.
const HELPER_WITHIN: Duration = Duration::from_secs(5);

/// The hidden command of the agent that sends CTRL_BREAK; its argument is the number of the process.
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

    /// True where CTRL_BREAK was sent; whether the program heeds it shows by the caller's deadline. Waits for the helper, some
    /// milliseconds: whoever cannot be asked is to be killed at once.
    pub(super) fn interrupt(&self) -> bool {
        let sent = break_by_helper(self.pid);
        if let Err(error) = &sent {
            tracing::warn!(pid = self.pid, %error, "a program could not be asked to stop");
        }
        sent.is_ok()
    }

    /// Not by closing the job: then its programs end with 0, as if they had done their work.
    pub(super) fn kill(&self) {
        use windows_sys::Win32::System::JobObjects::TerminateJobObject;
        if let Ok(mut job) = self.job.lock()
            && let Some(job) = job.take()
        {
            #[allow(
                unsafe_code,
                reason = "one of the crate's three exceptions: no safe library ends a job with a code"
            )]
            // SAFETY: the handle is open until `job` is dropped below; the call takes it and a number.
            let _ = unsafe { TerminateJobObject(job.handle() as _, KILLED) };
        }
    }
}

fn break_by_helper(pid: u32) -> std::io::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "the helper is ours, and ends by itself")]
    let mut helper = std::process::Command::new(std::env::current_exe()?)
        .args([SEND_BREAK, &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .creation_flags(CREATE_NO_WINDOW)
        .spawn()?;
    let patience = Instant::now() + HELPER_WITHIN;
    loop {
        match helper.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(std::io::Error::other(format!("{SEND_BREAK} failed: {status}"))),
            None if Instant::now() < patience => std::thread::sleep(Duration::from_millis(5)),
            None => {
                let _ = helper.kill();
                return Err(std::io::ErrorKind::TimedOut.into());
            }
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
    #[allow(unsafe_code, reason = "one of the crate's three exceptions: no safe library sends CTRL_BREAK")]
    // SAFETY: three plain calls into kernel32 that take numbers, no pointers, and touch no memory of ours.
    let sent = unsafe {
        FreeConsole();
        AttachConsole(pid) != 0 && GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid) != 0
    };
    if sent { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

pub(super) fn exit_of(status: ExitStatus) -> Exit {
    match status.code() {
        // The same bits.
        Some(code) if code.cast_unsigned() == KILLED => Exit::Signal(9),
        code => Exit::Code(code.unwrap_or(-1)),
    }
}

pub(super) fn keep_together(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW);
}

pub(super) fn heed_interrupts() {}
