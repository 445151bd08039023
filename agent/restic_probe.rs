//! Edge. Which restic there is. Asked at the start and before each job, since an upgrade needs no restart of the agent.

use std::time::Duration;

use restic_manager::file_error::chain;
use restic_manager::process::{Program, run_to_end};

use crate::core::Agent;
use crate::restic_args::version_arguments;
use crate::restic_version::{ResticVersion, missing};

const DEADLINE: Duration = Duration::from_secs(20);

/// The version of a restic that can be used. The error says what to install.
pub(crate) async fn version_of(restic: &str) -> Result<ResticVersion, String> {
    let environment = ["PATH", "HOME", "SystemRoot"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let program = Program {
        program: restic.into(),
        arguments: version_arguments(),
        environment: environment.collect(),
        directory: None,
    };
    let captured = run_to_end(&program, DEADLINE).await.map_err(|error| missing(restic, &chain(&error)))?;
    let said = format!("{}{}", captured.stdout, captured.stderr);
    ResticVersion::parse(&captured.stdout)
        .ok_or_else(|| missing(restic, &format!("it said: {}", said.trim().chars().take(200).collect::<String>())))?
        .supported()
}

/// Asks, and remembers the answer for hello and `status`.
pub(crate) async fn probe(agent: &Agent) -> Result<ResticVersion, String> {
    let answer = version_of(&agent.settings.restic).await;
    let changed = *agent.restic.borrow() != answer;
    agent.restic.borrow_mut().clone_from(&answer);
    if changed {
        match &answer {
            Ok(version) => tracing::info!(%version, "restic"),
            Err(error) => agent.note_error(error),
        }
        // The server shows the version: tell it anew.
        agent.hello_due.set(true);
        agent.hello_bell.notify_one();
    }
    answer
}
