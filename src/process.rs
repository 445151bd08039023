//! Edge. The only place that starts programs: restic for the agent, git for the server, and the fleet of
//! `restic-manager demo`.
//! Tells their output line by line, then how they ended, and ends them with everything they started.
//! Does not know restic, read what is printed, or decide when a program has taken too long.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, watch};

mod activity;
mod bytes;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use activity::{Activity, HAS_ACTIVITY, activity};
pub use bytes::run_for_bytes;

#[cfg(unix)]
pub use unix::end_with_us;
#[cfg(unix)]
use unix::{Tree, exit_of, heed_interrupts, keep_together};
#[cfg(windows)]
pub use windows::{SEND_BREAK, end_with_us, send_break};
#[cfg(windows)]
use windows::{Tree, exit_of, heed_interrupts, keep_together};

/// Longest line that is passed on, in bytes. The rest of a longer one is dropped, and the line says so.
pub const LINE_LIMIT_BYTES: usize = 1024 * 1024;
/// How long output may still come after the program's end: something it started holds the pipe.
const AFTER_EXIT: Duration = Duration::from_secs(2);
/// Lines waiting for a slow receiver; after that the program waits too, as it would for a terminal.
const CHANNEL_LINES: usize = 64;

/// What to start, complete: nothing is inherited but the user and the limits.
#[derive(Clone)]
pub struct Program {
    /// A path, or a name that is looked up in the `PATH` of `environment`.
    pub program: PathBuf,
    /// Visible to every user of the host: never a secret.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it runs; absent: where we run.
    pub directory: Option<PathBuf>,
}

/// The environment's values may be secrets, so only its names are shown.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Program")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("environment", &names)
            .field("directory", &self.directory)
            .finish()
    }
}

/// What comes from a program, `Exit` last and once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// One line without its end, with what is not UTF-8 replaced.
    Stdout(String),
    Stderr(String),
    Exit(Exit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Nothing was started.
#[derive(Debug)]
pub enum StartError {
    /// There is no such program.
    NotFound { program: PathBuf },
    /// There is no such directory to run in.
    NoDirectory { directory: PathBuf },
    /// Not executable, out of processes, ...
    Other { program: PathBuf, source: io::Error },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { program } => write!(f, "there is no program {}", program.display()),
            Self::NoDirectory { directory } => write!(f, "there is no directory {} to run in", directory.display()),
            Self::Other { program, .. } => write!(f, "cannot start {}", program.display()),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Other { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A program that was started. Dropping this kills it and everything it started.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    /// It and what it started.
    tree: Arc<Tree>,
    /// The process is reaped and its number may soon be another's.
    ended: Arc<AtomicBool>,
    /// Should the tree not be reached, the supervisor kills the program itself.
    kill: Arc<Notify>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks the program and what it started to stop, as Ctrl-C does. Never SIGTERM: restic 0.14 dies of it and leaves its
    /// lock. On Windows CTRL_BREAK, which a helper process sends. False where it can't be asked, as it has ended.
    pub fn interrupt(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && self.tree.interrupt()
    }

    /// Kills the program and what it started.
    pub fn kill_tree(&self) {
        if !self.ended.load(Ordering::Acquire) {
            self.tree.kill();
            self.kill.notify_one();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_tree();
    }
}

/// Starts a program. Its output is read to the end whether or not the receiver is kept; its standard input is empty.
///
/// On Linux it dies when the *thread* that calls this ends, however that ends: so call from a thread that lives as
/// long as the process, as the main thread with a current-thread runtime does. What the program itself started doesn't die
/// with us, but loses its pipes.
///
/// Call within a tokio runtime.
pub fn start(program: &Program) -> Result<(Running, mpsc::Receiver<Output>), StartError> {
    heed_interrupts();
    let mut child = spawn(program, Stdio::null())?;
    // `id` is absent only after a wait, and nobody has waited yet.
    let pid = child.id().unwrap_or_default();
    let tree = Arc::new(Tree::of(&child));
    let running = Running { pid, tree: Arc::clone(&tree), ended: Arc::default(), kill: Arc::default() };

    let (sender, receiver) = mpsc::channel(CHANNEL_LINES);
    let (cut, is_cut) = watch::channel(false);
    let stdout =
        child.stdout.take().map(|pipe| tokio::spawn(read(pipe, Output::Stdout, sender.clone(), is_cut.clone())));
    let stderr = child.stderr.take().map(|pipe| tokio::spawn(read(pipe, Output::Stderr, sender.clone(), is_cut)));
    let (ended, kill) = (Arc::clone(&running.ended), Arc::clone(&running.kill));
    tokio::spawn(async move {
        let exit = wait(&mut child, &kill).await;
        let mut pipes_end = std::pin::pin!(async {
            for reader in [stdout, stderr].into_iter().flatten() {
                let _ = reader.await;
            }
        });
        let in_time = tokio::time::timeout(AFTER_EXIT, &mut pipes_end).await.is_ok();
        // Whatever it left behind must not go on while its job counts as finished.
        ended.store(true, Ordering::Release);
        tree.kill();
        if !in_time {
            let _ = cut.send(true);
            pipes_end.await;
        }
        let _ = sender.send(Output::Exit(exit)).await;
    });
    Ok((running, receiver))
}

/// Starts it in a group of its own, with pipes for its output.
fn spawn(program: &Program, input: Stdio) -> Result<Child, StartError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    let mut command = Command::new(&program.program);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(directory) = &program.directory {
        if !directory.is_dir() {
            return Err(StartError::NoDirectory { directory: directory.clone() });
        }
        command.current_dir(directory);
    }
    keep_together(&mut command);
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StartError::NotFound { program: program.program.clone() },
        _ => StartError::Other { program: program.program.clone(), source },
    })
}

/// How a program ended, and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    pub exit: Exit,
    /// Its lines, each with its newline; at most 1 MiB.
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
pub enum RunError {
    Start(StartError),
    /// It was killed.
    Deadline {
        program: PathBuf,
        deadline: Duration,
    },
    /// It printed more than this many bytes, and was killed.
    TooMuch {
        program: PathBuf,
        limit: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => error.fmt(f),
            Self::Deadline { program, deadline } => {
                write!(f, "{} had not ended after {} s and was killed", program.display(), deadline.as_secs())
            }
            Self::TooMuch { program, limit } => {
                write!(f, "{} printed more than {limit} bytes and was killed", program.display())
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its own text is ours already.
            Self::Start(error) => error.source(),
            Self::Deadline { .. } | Self::TooMuch { .. } => None,
        }
    }
}

/// Runs a short program, such as `restic version`, to its end.
pub async fn run_to_end(program: &Program, deadline: Duration) -> Result<Captured, RunError> {
    let (running, mut receiver) = start(program).map_err(RunError::Start)?;
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let add = |text: &mut String, line: &str| {
        if text.len() + line.len() < LINE_LIMIT_BYTES {
            text.push_str(line);
            text.push('\n');
        }
    };
    let exit = tokio::time::timeout(deadline, async {
        loop {
            match receiver.recv().await {
                Some(Output::Stdout(line)) => add(&mut stdout, &line),
                Some(Output::Stderr(line)) => add(&mut stderr, &line),
                Some(Output::Exit(exit)) => return exit,
                // The supervisor always sends an exit, unless the runtime is being shut down.
                None => std::future::pending().await,
            }
        }
    })
    .await;
    drop(running);
    let exit = exit.map_err(|_| RunError::Deadline { program: program.program.clone(), deadline })?;
    Ok(Captured { exit, stdout, stderr })
}

/// The exit of the program itself, killed on the way if asked.
async fn wait(child: &mut Child, kill: &Notify) -> Exit {
    loop {
        tokio::select! {
            status = child.wait() => return match status {
                Ok(status) => exit_of(status),
                Err(error) => {
                    tracing::error!(%error, "cannot learn how a program ended");
                    Exit::Code(-1)
                }
            },
            () = kill.notified() => {
                let _ = child.start_kill();
            }
        }
    }
}

/// Reads a pipe to its end, line by line, also when nobody listens: a full pipe would stop the program. Once `cut`, only
/// what already is in the pipe.
async fn read(
    mut pipe: impl AsyncRead + Unpin,
    kind: fn(String) -> Output,
    sender: mpsc::Sender<Output>,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut line = Line::default();
    let mut left_after_cut = LINE_LIMIT_BYTES;
    loop {
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => read.unwrap_or(0),
            // A process that escaped from the group may hold the pipe for ever.
            _ = cut.wait_for(|cut| *cut) => 0,
        };
        if read == 0 || left_after_cut == 0 {
            break;
        }
        if *cut.borrow() {
            left_after_cut = left_after_cut.saturating_sub(read);
        }
        let mut rest = &buffer[..read];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            line.push(&rest[..end]);
            let _ = sender.send(kind(line.take())).await;
            rest = &rest[end + 1..];
        }
        line.push(rest);
    }
    if !line.is_empty() {
        let _ = sender.send(kind(line.take())).await;
    }
}

/// A line that is not yet at its end.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    dropped: usize,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(LINE_LIMIT_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fits]);
        self.dropped += bytes.len() - fits;
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self) -> String {
        let Self { bytes, dropped } = std::mem::take(self);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(&bytes);
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if dropped > 0 {
            text.push_str(&format!(" [{dropped} more bytes of this line were dropped]"));
        }
        text
    }
}

#[cfg(all(test, unix))]
mod tests;
