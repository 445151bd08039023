//! Edge. `restic-manager serve`: from arguments to a running server, and from signals to its orderly end. No logic of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::clock;
use crate::file_error::chain;
use crate::logging::{self, LogFormat};
use crate::problem::Severity;
use crate::server::alert_loop;
use crate::server::app::{App, blocking, stopped};
use crate::server::channel_loop;
use crate::server::credentials;
use crate::server::decide::decide_tick;
use crate::server::fleet_loop;
use crate::server::lease_loop;
use crate::server::ping_loop;
use crate::server::served_tls;
use crate::server::servers_loop;
use crate::server::state_dir::StateDirError;
use crate::server::{fleet::load::load, http, index_upkeep, upkeep};
use crate::service_manager::{self, Moment};

#[derive(Debug, Args)]
pub struct ServeArguments {
    /// The configuration directory
    #[arg(long, default_value = "config")]
    config: PathBuf,
    /// The state directory; default: server.toml's `state`
    #[arg(long)]
    state: Option<PathBuf>,
    /// Address and port; default: server.toml's `listen`
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// How logs are written to stderr
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
}

/// Threads that wait for disks. More only wait for each other: measured with 1,000 journals (`cargo bench --bench fleet -- events`).
const BLOCKING_THREADS: usize = 32;

/// Serves until a signal says stop. The error is for a person, with its causes.
pub fn run(arguments: &ServeArguments) -> Result<(), String> {
    logging::start(arguments.log_format);
    raise_descriptor_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(serve(arguments))
}

async fn serve(arguments: &ServeArguments) -> Result<(), String> {
    let config = absolute(&arguments.config);
    if !config.is_dir() {
        return Err(format!("{} is not a directory: name the configuration with --config DIR", config.display()));
    }
    let state = arguments.state.clone().unwrap_or_else(|| config.join(state_of(&config)));
    let app = loop {
        match App::open(&state) {
            Err(StateDirError::File(error)) if error.is_disk_full() => {
                let text = format!("cannot start yet: {}: make room; the next try is in 5 s", chain(&error));
                tracing::error!("{text}");
                service_manager::tell(Moment::Status(&text));
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            opened => break opened.map_err(|error| chain(&error))?,
        }
    };
    tokio::spawn(servers_loop::run(Arc::clone(&app)));
    let started = fleet_loop::start(&app, &config).await.map_err(|error| error.to_string())?;
    let settings = &started.fleet.settings;
    let listen = arguments.listen.unwrap_or(settings.listen);
    let has_tls = app.tls.start().map_err(|error| chain(&error))?;
    if !has_tls && !listen.ip().is_loopback() && !settings.insecure_http {
        return Err(format!(
            "will not listen on {listen} without TLS: set [tls] cert and key in server.toml, or insecure_http = true behind a TLS proxy"
        ));
    }
    let listener = http::listener::listen(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let watched = Arc::clone(&app);
    tokio::spawn(fleet_loop::run(watched, started));
    tokio::spawn(tick(Arc::clone(&app)));
    tokio::spawn(stay_alive(Arc::clone(&app)));
    tokio::spawn(lease_loop::run(Arc::clone(&app)));
    if has_tls {
        tokio::spawn(served_tls::run(Arc::clone(&app)));
    }
    tokio::spawn(upkeep::run(Arc::clone(&app)));
    tokio::spawn(alert_loop::run(Arc::clone(&app)));
    tokio::spawn(channel_loop::run(Arc::clone(&app)));
    tokio::spawn(ping_loop::run(Arc::clone(&app)));
    tokio::spawn(index_upkeep::run(Arc::clone(&app)));
    tracing::info!(%address, tls = has_tls, state = %state.display(), "ready");
    let place = format!("{}://{address}", if has_tls { "https" } else { "http" });
    // Whoever hears that we are ready may send one at once.
    let heard = Heard::listen();
    service_manager::tell(Moment::Ready(&status_line(&app, &place)));
    let watched = Arc::clone(&app);
    tokio::spawn(signals(heard, Arc::clone(&app), place.clone()));
    tokio::spawn(service_manager::keep_alive(move || status_line(&watched, &place)));
    http::listener::serve(Arc::clone(&app), listener).await;
    mark_alive(&app, true).await;
    tracing::info!("stopped");
    Ok(())
}

/// The state directory must be known before the last good configuration can be: of a broken server.toml, what could be read counts.
fn state_of(config: &Path) -> String {
    let text = std::fs::read_to_string(config.join("server.toml")).unwrap_or_default();
    load(&BTreeMap::from([("server.toml".to_owned(), text)])).0.settings.state
}

fn absolute(path: &Path) -> PathBuf {
    // Not canonical: a swapped symlink must stay one.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Leaves a mark every few seconds, by which the next server knows since when there was none.
async fn stay_alive(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    let mut was_marked = true;
    loop {
        was_marked = mark_alive(&app, was_marked).await;
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

/// Whether it is there now. A failure after a success is told.
async fn mark_alive(app: &Arc<App>, was_marked: bool) -> bool {
    let marked = Arc::clone(app);
    let result = blocking(move || marked.state_dir.mark_alive(clock::now())).await;
    if let (Err(error), true) = (&result, was_marked) {
        tracing::warn!("after a restart agents may count as online for longer: {}", chain(error));
    }
    result.is_ok()
}

/// Ends jobs that nobody took in time, dispatches what a crash left undispatched, has leases looked at, and forgets expired tokens.
async fn tick(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
        }
        let dir = app.state_dir.enrollments_dir();
        if let Err(error) = blocking(move || credentials::remove_expired(&dir, clock::now())).await {
            tracing::warn!("enrollment tokens that have expired stay: {}", chain(&error));
        }
        for host in app.hosts() {
            if !decide_tick(&host.slot.durable().state, clock::now()).is_empty()
                && let Err(error) = host.append(decide_tick).await
            {
                tracing::warn!(host = %host.name, %error, "overdue or undispatched jobs stay queued until the next look");
            }
        }
        app.leases.attend_all();
    }
}

/// The signals that have come since.
#[cfg(unix)]
struct Heard([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Heard {
    fn listen() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let [terminate, interrupt, reload] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Some(Self([terminate.ok()?, interrupt.ok()?, reload.ok()?]))
    }
}

#[cfg(unix)]
async fn signals(heard: Option<Heard>, app: Arc<App>, place: String) {
    let Some(Heard([mut terminate, mut interrupt, mut reload])) = heard else {
        tracing::error!("cannot listen for signals: stop with kill -9, which loses nothing acknowledged");
        return;
    };
    loop {
        tokio::select! {
            _ = reload.recv() => drop(tokio::spawn(reload_now(Arc::clone(&app), place.clone()))),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping");
    service_manager::tell(Moment::Stopping("stopping: what was asked is answered first"));
    app.stopping.send_replace(true);
}

/// Whoever asks the service manager for a reload is answered when it has ended, or this has taken too long.
#[cfg(unix)]
async fn reload_now(app: Arc<App>, place: String) {
    const PATIENCE: Duration = Duration::from_secs(30);
    service_manager::tell(Moment::Reloading);
    let mut reloaded = app.reloaded.subscribe();
    let mut wanted = 0;
    app.reload_wanted.send_modify(|count| {
        *count += 1;
        wanted = *count;
    });
    let _ = tokio::time::timeout(PATIENCE, reloaded.wait_for(|done| *done >= wanted)).await;
    service_manager::tell(Moment::Ready(&status_line(&app, &place)));
}

/// How things are, for people, in one line.
fn status_line(app: &App, place: &str) -> String {
    let config = app.config();
    let errors = config.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let commit = config.commit.as_deref().map_or(String::new(), |commit| format!(" of commit {commit:.10}"));
    let configuration = match (errors, config.runs) {
        (0, true) => format!("the configuration{commit} runs"),
        (0, false) => "the last good configuration runs, the files are not read yet".to_owned(),
        (1, _) => "the last good configuration runs: there is an error in the files".to_owned(),
        (errors, _) => format!("the last good configuration runs: there are {errors} errors in the files"),
    };
    let hosts = app.hosts().len();
    format!("{place}, {hosts} {}; {configuration}", if hosts == 1 { "host" } else { "hosts" })
}

/// Ctrl-C alone, heard when it is waited for.
#[cfg(not(unix))]
struct Heard;

#[cfg(not(unix))]
impl Heard {
    fn listen() -> Self {
        Self
    }
}

#[cfg(not(unix))]
async fn signals(_: Heard, app: Arc<App>, _: String) {
    if tokio::signal::ctrl_c().await.is_ok() {
        app.stopping.send_replace(true);
    }
}

/// Ten thousand parked polls need as many descriptors; the soft limit is often 1024.
#[cfg(unix)]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() || limit.current.is_some_and(|n| n < 4096) {
        tracing::warn!(limit = ?limit.current, "few file descriptors: many agents will be turned away (ulimit -n, LimitNOFILE=)");
    }
}

#[cfg(not(unix))]
fn raise_descriptor_limit() {}
