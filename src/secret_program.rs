//! Edge. Asks a program for a secret: what it prints is it. Never shows what was printed, also not what it complained of: a failure is
//! told by the program's exit. Does not keep the secret.

use std::time::Duration;

use crate::file_error::chain;
use crate::process::{Captured, Exit, Program, run_to_end};
use crate::protocol::command::{SECRET_LIMIT, Secret};
use crate::service_manager::VARIABLES;

/// A program that takes longer is killed with everything it started.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the program with these arguments in our own environment, but for what the service manager says to us alone. The error goes on after "the command ...".
pub async fn ask(argv: &[String]) -> Result<Secret, String> {
    let (program, arguments) = argv.split_first().ok_or("has no program")?;
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !VARIABLES.contains(&name.as_str()))
        .collect();
    let program = Program { program: program.into(), arguments: arguments.to_vec(), environment, directory: None };
    let captured = run_to_end(&program, DEADLINE).await.map_err(|error| format!("failed: {}", chain(&error)))?;
    judge(&captured)
}

fn judge(captured: &Captured) -> Result<Secret, String> {
    let Captured { exit, stdout, stderr } = captured;
    if *exit != Exit::Code(0) {
        // Such programs tell tokens there too, so none of it is repeated.
        let hint = if stderr.trim().is_empty() { "" } else { ", with an error message: run it by hand to see that" };
        return Err(format!("failed: {exit}{hint}"));
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn answer(script: &str) -> Result<String, String> {
        ask(&["/bin/sh", "-c", script].map(str::to_owned)).await.map(|secret| secret.reveal().to_owned())
    }

    #[tokio::test]
    async fn what_a_command_prints_is_the_secret_without_one_newline() {
        for (script, secret) in [("printf s", "s"), ("echo s", "s"), ("printf ' s '", " s ")] {
            assert_eq!(answer(script).await, Ok(secret.to_owned()), "{script}");
        }
        for (script, expected) in [
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            ("printf 'hunter2\\377'", "UTF-8"),
            ("printf 'hunter2\\0'", "NUL"),
            ("printf 'a notice\\nhunter2\\n'", "more than one line"),
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
    async fn a_failure_shows_nothing_of_what_was_printed() {
        let error = answer("echo hunter2; echo 'no access with token=hunter3' >&2; exit 1").await.expect_err("failed");
        assert_eq!(error, "failed: exit code 1, with an error message: run it by hand to see that");
        assert_eq!(answer("echo hunter2; exit 2").await.expect_err("failed"), "failed: exit code 2");
    }
}
