//! Edge. What the server says of a newer agent: told once, and kept for `status`. Nothing here fetches or replaces
//! anything: an agent that could be told to would be a way into every host.

use restic_manager::printable::printable;
use restic_manager::program_version::is_older;
use restic_manager::protocol::command::AgentUpdateAvailable;

use crate::core::Agent;

/// More of the server's words is nobody's version, address or changelog.
const LONGEST_CHARS: usize = 500;

/// hello was answered with this.
pub(crate) fn told(agent: &Agent, update: Option<AgentUpdateAvailable>) {
    let update = update.filter(|update| is_newer(update, env!("CARGO_PKG_VERSION")));
    let update = update.as_ref().map(readable);
    if *agent.update.borrow() == update {
        return;
    }
    if let Some(update) = &update {
        tracing::warn!("this agent is {}, and the server wants {}", env!("CARGO_PKG_VERSION"), update.in_words());
    }
    *agent.update.borrow_mut() = update;
    agent.status_bell.notify_one();
}

/// A server may say anything; only what is known to be newer is.
fn is_newer(update: &AgentUpdateAvailable, own: &str) -> bool {
    is_older(own, &update.latest_version) == Some(true)
}

/// Without what drives a terminal, and no longer than anybody reads.
fn readable(update: &AgentUpdateAvailable) -> AgentUpdateAvailable {
    let short = |text: &str| printable(&text.chars().take(LONGEST_CHARS).collect::<String>());
    AgentUpdateAvailable {
        latest_version: short(&update.latest_version),
        package_url: short(&update.package_url),
        changelog: update.changelog.as_deref().map(short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(version: &str, changelog: Option<&str>) -> AgentUpdateAvailable {
        AgentUpdateAvailable {
            latest_version: version.to_owned(),
            package_url: "https://packages.example.org/".to_owned(),
            changelog: changelog.map(str::to_owned),
        }
    }

    #[test]
    fn only_a_version_above_our_own_is_newer() {
        for (version, newer) in [("1.2.1", true), ("1.2.0", false), ("1.1.9", false), ("soon", false), ("", false)] {
            assert_eq!(is_newer(&update(version, None), "1.2.0"), newer, "{version}");
        }
    }

    #[test]
    fn what_the_server_says_drives_no_terminal_and_fills_no_log() {
        let shown = readable(&update("1.2.1", Some(&format!("\u{1b}[2J{}", "x".repeat(10_000))))).in_words();
        assert!(shown.starts_with("1.2.1: https://packages.example.org/ (\\u{1b}[2Jxxx"), "{shown}");
        assert!(!shown.contains('\u{1b}') && shown.len() < 700, "{}", shown.len());
    }
}
