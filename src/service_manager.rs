//! Edge. What the service manager is told where there is one (systemd's sd_notify): ready, alive, reloading, stopping, and a line for
//! people. Without one, and on other systems, nothing is done. Does not decide when something is so.

use std::time::Duration;

/// What may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment<'a> {
    /// The service does what it is there for; also: a reload has ended.
    Ready(&'a str),
    /// SIGHUP was heard; `Ready` must follow.
    Reloading,
    /// It works on its end.
    Stopping(&'a str),
    /// Nothing changed but the line for people.
    Status(&'a str),
    /// The watchdog need not bite.
    Alive,
}

/// Variables by which systemd addresses the service itself. No program that it starts may get them.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Tells it. That it cannot be told is worth a line in the log and no more: a service manager that misses it acts by its own rules.
pub fn tell(moment: Moment<'_>) {
    #[cfg(unix)]
    if let Err(error) = told(moment) {
        tracing::warn!(%error, "the service manager was not told: {moment:?}");
    }
    #[cfg(not(unix))]
    let _ = moment;
}

#[cfg(unix)]
fn told(moment: Moment<'_>) -> std::io::Result<()> {
    use sd_notify::{NotifyState, notify};
    // A line is a line.
    let line = |text: &str| text.replace(['\n', '\r'], " ");
    match moment {
        Moment::Ready(text) => notify(&[NotifyState::Ready, NotifyState::Status(&line(text))]),
        // From systemd 253 on a reload has to say when it began; older ones pass over it.
        Moment::Reloading => notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Moment::Stopping(text) => notify(&[NotifyState::Stopping, NotifyState::Status(&line(text))]),
        Moment::Status(text) => notify(&[NotifyState::Status(&line(text))]),
        Moment::Alive => notify(&[NotifyState::Watchdog]),
    }
}

/// Tells the watchdog again and again that the runtime's timers run, and keeps the line for people up to date. Returns at once
/// where there is no service manager. That it looks at nothing else is the point: a disk that takes minutes is no reason to be killed.
pub async fn keep_alive(status: impl Fn() -> String) {
    let Some(interval) = interval() else { return };
    let mut last = String::new();
    loop {
        tell(Moment::Alive);
        let now = status();
        if now != last {
            tell(Moment::Status(&now));
            last = now;
        }
        tokio::time::sleep(interval).await;
    }
}

/// How often it has to hear of us. Two of three may be late.
#[cfg(unix)]
fn interval() -> Option<Duration> {
    const WITHOUT_WATCHDOG: Duration = Duration::from_secs(60);
    std::env::var_os(VARIABLES[0])?;
    Some(sd_notify::watchdog_enabled().map_or(WITHOUT_WATCHDOG, |limit| limit / 3).max(Duration::from_millis(100)))
}

#[cfg(not(unix))]
fn interval() -> Option<Duration> {
    None
}
