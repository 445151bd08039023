//! Edge. A program that answers in bytes, such as `git cat-file --batch`: fed, read whole within a bound, and waited for.
//! Does not look at the bytes.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{Exit, Program, RunError, Tree, exit_of, spawn};

/// Bytes of stderr that are kept.
const STDERR_LIMIT: usize = 64 * 1024;

/// Runs a program to its end with `input` as its standard input: how it ended, what it printed to stdout, and the beginning of what
/// it said to stderr. More than `limit` bytes are an error. Call within a tokio runtime, on a thread that lives on, as `start` says.
pub async fn run_for_bytes(
    program: &Program,
    input: Vec<u8>,
    limit: usize,
    deadline: Duration,
) -> Result<(Exit, Vec<u8>, String), RunError> {
    let mut child = spawn(program, Stdio::piped()).map_err(RunError::Start)?;
    let tree = Tree::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that stops reading says why by its exit code.
            let _ = stdin.write_all(&input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let all = async {
        let ((), stdout, stderr) = tokio::join!(feed, read(stdout, limit), read(stderr, STDERR_LIMIT));
        // With its output closed or too long it is not waited for any longer than the deadline.
        if stdout.len() > limit {
            return Err(RunError::TooMuch { program: program.program.clone(), limit });
        }
        let exit = child.wait().await.map_or(Exit::Code(-1), exit_of);
        Ok((exit, stdout, String::from_utf8_lossy(&stderr).trim().to_owned()))
    };
    let outcome = tokio::time::timeout(deadline, all).await;
    if !matches!(outcome, Ok(Ok(_))) {
        // Not reaped yet, so that the number is still its own.
        tree.kill();
    }
    outcome.unwrap_or_else(|_| Err(RunError::Deadline { program: program.program.clone(), deadline }))
}

/// At most one byte more than `limit`.
async fn read(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let _ = pipe.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn shell(text: &str, input: &[u8], limit: usize) -> Result<(Exit, Vec<u8>, String), RunError> {
        let program = Program {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), text.to_owned()],
            environment: Vec::new(),
            directory: None,
        };
        run_for_bytes(&program, input.to_vec(), limit, Duration::from_secs(2)).await
    }

    #[tokio::test]
    async fn bytes_go_in_and_come_out_as_they_are() {
        let input: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
        let (exit, stdout, stderr) = shell("exec cat", &input, 300_000).await.expect("it runs");
        assert!(exit == Exit::Code(0) && stdout == input && stderr.is_empty());
        let (exit, _, stderr) = shell("echo no >&2; exit 3", &input, 10).await.expect("it runs");
        assert_eq!((exit, stderr.as_str()), (Exit::Code(3), "no"));
    }

    #[tokio::test]
    async fn too_much_and_too_long_are_ended() {
        let much = shell("while :; do echo more; done", b"", 1000).await.expect_err("it never ends");
        assert!(matches!(much, RunError::TooMuch { limit: 1000, .. }), "{much}");
        let long = shell("sleep 60 >/dev/null 2>&1", b"", 1000).await.expect_err("it never ends");
        assert!(matches!(long, RunError::Deadline { .. }), "{long}");
    }
}
