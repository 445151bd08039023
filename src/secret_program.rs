//! Edge. Asks a program for a secret: what it prints is it. Never shows what was printed: a failure is told by the program's exit and
//! the beginning of what it complained of. Does not keep the secret.

use std::time::Duration;

use crate::file_error::chain;
use crate::mask::mask_secrets;
use crate::process::{Captured, Exit, Program, run_to_end};
use crate::protocol::command::{SECRET_LIMIT, Secret};

/// A program that takes longer is killed with everything it started.
const DEADLINE: Duration = Duration::from_secs(30);
/// Characters of its complaint that are shown.
const COMPLAINT: usize = 200;

/// Runs the program with these arguments in our own environment. The error goes on after "the command ...".
pub async fn ask(argv: &[String]) -> Result<Secret, String> {
    let (program, arguments) = argv.split_first().ok_or("has no program")?;
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let program = Program { program: program.into(), arguments: arguments.to_vec(), environment, directory: None };
    let captured = run_to_end(&program, DEADLINE).await.map_err(|error| format!("failed: {}", chain(&error)))?;
    judge(&captured, &program.environment)
}

fn judge(captured: &Captured, environment: &[(String, String)]) -> Result<Secret, String> {
    let Captured { exit, stdout, .. } = captured;
    if *exit != Exit::Code(0) {
        let complaint = complaint(captured, environment);
        return Err(if complaint.is_empty() {
            format!("failed: {exit}")
        } else {
            format!("failed: {exit}: {complaint}")
        });
    }
    if stdout.len() > SECRET_LIMIT {
        return Err("printed more than 64 KiB".to_owned());
    }
    if stdout.contains(char::REPLACEMENT_CHARACTER) {
        return Err("printed what is not text in UTF-8".to_owned());
    }
    Secret::of_text(stdout).map_err(|what| match what {
        "is empty" => "printed nothing".to_owned(),
        what => format!("printed what {what}"),
    })
}

/// The beginning of what the program said on its standard error. What it printed as well may be the secret, and so may be what it
/// was given in its environment: neither is repeated. Where hiding that would be guesswork, nothing is.
fn complaint(captured: &Captured, environment: &[(String, String)]) -> String {
    let names = ["TOKEN", "SECRET", "PASSWORD", "PASSPHRASE", "CREDENTIAL", "KEY"];
    let is_secret = |name: &str| names.iter().any(|word| name.to_ascii_uppercase().contains(word));
    let given = environment.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.as_str());
    let printed = captured.stdout.lines().chain([captured.stdout.trim_end()]);
    let secrets: Vec<&str> = printed.chain(given).filter(|secret| !secret.trim().is_empty()).collect();
    let said: String = captured.stderr.trim().chars().take(20 * COMPLAINT).collect();
    if secrets.len() > 100 || secrets.iter().any(|secret| secret.len() > 10 * COMPLAINT) {
        return String::new();
    }
    let masked = mask_secrets(&said, &secrets);
    masked.chars().take(COMPLAINT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn answer(script: &str) -> Result<String, String> {
        ask(&["/bin/sh", "-c", script].map(str::to_owned)).await.map(|secret| secret.reveal().to_owned())
    }

    #[tokio::test]
    async fn what_a_command_prints_is_the_secret_without_one_newline() {
        for (script, secret) in
            [("printf s", "s"), ("echo s", "s"), ("printf 's\\n\\n'", "s\n"), ("printf ' s '", " s ")]
        {
            assert_eq!(answer(script).await, Ok(secret.to_owned()), "{script}");
        }
        for (script, expected) in [
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            ("printf 'hunter2\\377'", "UTF-8"),
            ("printf 'hunter2\\0'", "NUL"),
            ("head -c 70000 /dev/zero | tr '\\0' x", "64 KiB"),
            ("exit 3", "failed: exit code 3"),
            ("exec /nowhere/vault", "failed: exit code"),
        ] {
            let error = answer(script).await.expect_err(script);
            assert!(error.contains(expected) && !error.contains("hunter2"), "{script}: {error}");
        }
        assert!(ask(&["/nowhere/vault".to_owned()]).await.expect_err("nothing").contains("there is no program"));
    }

    #[tokio::test]
    async fn a_failure_shows_the_beginning_of_the_complaint_and_nothing_that_was_printed() {
        let error = answer("echo hunter2; printf 'no\\033 access with hunter2' >&2; exit 1").await.expect_err("failed");
        assert_eq!(error, "failed: exit code 1: no  access with ***");
        let long = answer("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1").await.expect_err("failed");
        assert!(long.len() < 250, "{long}");
        let given = [("VAULT_TOKEN".to_owned(), "hunter2-token".to_owned())];
        let captured = Captured { exit: Exit::Code(1), stdout: String::new(), stderr: "bad hunter2-token".to_owned() };
        assert_eq!(judge(&captured, &given).expect_err("failed"), "failed: exit code 1: bad ***");
    }
}
