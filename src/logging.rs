//! Edge. Logs to stderr, as text or JSON, filtered by `RUST_LOG`. Decides nothing about what is logged.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A log file that is larger than this when we start, in bytes, gives way to a new one.
const LARGEST_LOG_BYTES: u64 = 8 * 1024 * 1024;

/// From now on, as text, at the end of a file: a Windows service has no stderr that anybody reads. The file before it is kept as
/// `.old`. Where it can't be opened there are no logs.
pub fn start_in_file(path: &std::path::Path) {
    #![allow(clippy::disallowed_methods, reason = "a log is no state: losing its end in a crash loses nothing")]
    if std::fs::metadata(path).is_ok_and(|log| log.len() > LARGEST_LOG_BYTES) {
        let _ = std::fs::rename(path, path.with_extension("log.old"));
    }
    let Ok(file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return };
    let (filter, _) = filter_of(&std::env::var("RUST_LOG").unwrap_or_default());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::sync::Arc::new(file)).with_ansi(false);
    let _ = tracing_subscriber::registry().with(layer.with_target(false).with_filter(filter)).try_init();
}

/// From now on. `RUST_LOG` is a level (`debug`) or levels by module (`info,restic_manager::server=debug`); default: info.
pub fn start(format: LogFormat) {
    let text = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, is_wrong) = filter_of(&text);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = match format {
        LogFormat::Text => layer.with_ansi(colored).with_target(false).boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    // It fails only where one is set already, which then stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    if is_wrong {
        tracing::warn!(
            "RUST_LOG is no filter, so it is info: write for example RUST_LOG=info,restic_manager::server=debug"
        );
    }
}

/// The filter, and whether the text was none.
fn filter_of(text: &str) -> (Targets, bool) {
    let info = || Targets::new().with_default(LevelFilter::INFO);
    match text.trim() {
        "" => (info(), false),
        text => Targets::from_str(text).map_or_else(|_| (info(), true), |filter| (filter, false)),
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_module_and_anything_else_is_told() {
        let enables = |text: &str, module: &str, level: Level| filter_of(text).0.would_enable(module, &level);
        assert!(enables("", "restic_manager", Level::INFO) && !enables("", "restic_manager", Level::DEBUG));
        assert!(enables("debug", "hyper", Level::DEBUG));
        let one = "warn,restic_manager::server=trace";
        assert!(enables(one, "restic_manager::server::slot", Level::TRACE) && !enables(one, "hyper", Level::INFO));
        let (filter, is_wrong) = filter_of("restic_manager=loud");
        assert!(is_wrong && filter.would_enable("restic_manager", &Level::INFO));
    }
}
