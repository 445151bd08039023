//! Edge. `restic-manager-agent run`: opens the files, wires the loops, and waits for the end. One of the two places that know
//! all tasks. One thread: restic dies with the thread that started it, so it must be the main one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chrono::TimeDelta;
use restic_manager::atomic_file;
use restic_manager::clock;
use restic_manager::file_error::{FileError, chain};
use restic_manager::http_client::HttpClient;
use restic_manager::id::{InstanceId, StreamId};
use restic_manager::logging::{self, LogFormat};
use restic_manager::process;
use restic_manager::protocol::command::Secret;
use restic_manager::proxy::{Login, ProxyRules};
use restic_manager::service_manager::{self, Moment};
use restic_manager::tls;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::core::{Agent, POLL_WAIT_FILE};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::policy::Policy;
use crate::received::Received;
use crate::scheduler::PendingFires;
use crate::settings::{self, AgentSettings, ProxySettings};
use crate::spool::Spool;
use crate::{Directory, Failure, commands, json_file, poll, restic_probe, runner, scheduler, sender, status};

/// What polls wait until the server says otherwise, in seconds.
pub(crate) const DEFAULT_WAIT_SECS: u64 = 30;

/// So many queries run beside each other and beside the jobs.
const QUERIES_AT_ONCE: usize = 2;

/// How long the end waits for restic, which is killed 90 s after it was asked, and then for its lock to be removed. The unit's
/// TimeoutStopSec is longer.
const STOP_PATIENCE: Duration = Duration::from_secs(110);

/// Runs until a signal says stop.
pub(crate) fn run(directory: &Directory) -> Result<(), Failure> {
    logging::start(LogFormat::Text);
    run_until(directory, stop_signal())
}

/// The same until `stop` comes, with logs set up already.
pub(crate) fn run_until(directory: &Directory, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    process::end_with_us();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let local = LocalSet::new();
    local.block_on(&runtime, serve(directory, stop))
}

/// agent.toml.
pub(crate) fn read_settings(path: &Path) -> Result<AgentSettings, Failure> {
    let text = std::fs::read_to_string(path).map_err(FileError::of("read", path));
    let text = text.map_err(|error| {
        format!(
            "{}: enroll this host first, or name its directory with --dir, or the file with --config",
            chain(&error)
        )
    })?;
    settings::parse("agent.toml", &text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
        Failure::from(format!("{} has errors:\n{}", path.display(), lines.join("\n")))
    })
}

/// The client of the server that agent.toml names, by the way that agent.toml or the environment says.
pub(crate) fn client(settings: &AgentSettings, credential: Option<&Secret>) -> Result<HttpClient, Failure> {
    let shown = settings.client_certificate.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let tls = tls::client_config_with(settings.ca_file.as_deref(), settings.pin, shown);
    let tls = tls.map_err(|error| chain(&error))?;
    Ok(HttpClient::new(&settings.server, credential, tls, proxies(settings)?).map_err(|error| chain(&error))?)
}

fn proxies(settings: &AgentSettings) -> Result<ProxyRules, String> {
    let Some(ProxySettings { proxy, login, direct }) = &settings.proxy else {
        return ProxyRules::from_environment(|name| std::env::var(name).ok());
    };
    let mut proxy = proxy.clone();
    if let Some((username, password_file)) = login {
        let password = match password_file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                format!("password_file in [proxy] of agent.toml: {}", chain(&FileError::of("read", path)(error)))
            })?,
        };
        let password = Secret::new(password.trim_end_matches(['\r', '\n']).to_owned());
        proxy = proxy.with_login(Login { username: username.clone(), password });
    }
    Ok(ProxyRules::new(proxy, direct.clone()))
}

async fn serve(directory: &Directory, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let (dir, settings_file) = (directory.dir.as_path(), directory.settings_file());
    let settings = read_settings(&settings_file)?;
    check_rights(dir, &settings_file)?;
    let identity = Identity::read(dir).map_err(|error| chain(&error))?;
    let identity = identity.filter(|identity| identity.enrolled);
    let identity = identity.ok_or_else(|| format!("{} is not enrolled: enroll this host first", dir.display()))?;
    let _one_agent = lock(dir)?;
    let mut damage = Vec::new();
    let (ledger, damaged) = Ledger::open(dir, clock::now()).map_err(|error| chain(&error))?;
    damage.extend(damaged);
    let (spool, damaged) = Spool::open(dir, StreamId(uuid::Uuid::new_v4())).map_err(|error| chain(&error))?;
    damage.extend(damaged);
    let (received, damaged) = Received::open(dir).map_err(|error| chain(&error))?;
    damage.extend(damaged);
    let pending_fires = PendingFires::read(dir, &mut damage).map_err(|error| chain(&error))?;
    let poll_wait = json_file::read(&dir.join(POLL_WAIT_FILE)).map_err(|error| chain(&error))?.or_tell(&mut damage);
    for text in &damage {
        tracing::error!("{text}");
    }
    let agent = Rc::new(Agent {
        dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()),
        hooks_dir: std::path::absolute(directory.hooks_dir()).unwrap_or_else(|_| directory.hooks_dir()),
        host: identity.host.clone(),
        policy: Policy::clone(&settings.policy),
        client: client(&settings, Some(&identity.credential))?,
        identity: RefCell::new(identity),
        rotation_failed: Cell::new(None),
        server_wait: Cell::new(DEFAULT_WAIT_SECS),
        poll_wait: RefCell::new(poll_wait.unwrap_or_default()),
        settings,
        instance: InstanceId(uuid::Uuid::new_v4()),
        started: tokio::time::Instant::now(),
        zone: iana_time_zone::get_timezone().unwrap_or_else(|_| "UTC".to_owned()),
        ledger: RefCell::new(ledger),
        room: spool.room(),
        spool: RefCell::new(spool),
        received: RefCell::new(received),
        pending_fires: RefCell::new(pending_fires),
        used_secrets: RefCell::new(VecDeque::new()),
        known_snapshots: RefCell::default(),
        restic: RefCell::new(Err("not asked yet".to_owned())),
        running: RefCell::new(BTreeMap::new()),
        logs: RefCell::new(BTreeMap::new()),
        clock_offset: Cell::new(TimeDelta::zero()),
        send_bell: Notify::new(),
        schedule_bell: Notify::new(),
        job_bell: Notify::new(),
        query_bell: Notify::new(),
        hello_due: Cell::new(true),
        hello_bell: Notify::new(),
        greeted: Notify::new(),
        superseded: Cell::new(false),
        update: RefCell::default(),
        last_contact: Cell::new(None),
        last_error: RefCell::new(None),
        status_bell: Notify::new(),
    });
    let died_within = commands::recover(&agent);
    // Its error is told there, and told again by each job that needs it.
    let _ = restic_probe::probe(&agent).await;
    tracing::info!(host = %agent.host, server = %agent.settings.server, dir = %agent.dir.display(), "agent runs");
    tokio::task::spawn_local(poll::run(Rc::clone(&agent)));
    tokio::task::spawn_local(sender::run(Rc::clone(&agent)));
    tokio::task::spawn_local(scheduler::run(Rc::clone(&agent)));
    tokio::task::spawn_local(runner::run(Rc::clone(&agent), died_within));
    for _ in 0..QUERIES_AT_ONCE {
        tokio::task::spawn_local(runner::run_queries(Rc::clone(&agent)));
    }
    tokio::task::spawn_local(status::run_writer(Rc::clone(&agent)));
    service_manager::tell(Moment::Ready(&status::line(&agent)));
    let told = Rc::clone(&agent);
    tokio::task::spawn_local(service_manager::keep_alive(move || status::line(&told)));
    stop.await;
    tracing::info!("stopping");
    // What runs is cancelled as an operator would, so that restic leaves no lock. What cannot end in time dies with us.
    let running: Vec<_> = agent.running.borrow().values().cloned().collect();
    if !running.is_empty() {
        tracing::info!("waiting for restic to end (another signal does not wait)");
    }
    service_manager::tell(Moment::Stopping("stopping: restic is asked to end and to leave no lock"));
    running.iter().for_each(|bell| bell.notify_one());
    let ended = async {
        while !agent.running.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(STOP_PATIENCE, ended) => {}
        () = stop_signal() => {}
    }
    Ok(())
}

/// What others may write, others may make the agent do; and who reads the identity is the agent to the server.
#[cfg(unix)]
fn check_rights(dir: &Path, settings: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    // Who may write to the directory of agent.toml may replace it.
    let beside = settings.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for (path, forbidden, remedy) in [
        (dir, 0o022, "chmod go-w"),
        (beside, 0o022, "chmod go-w"),
        (settings, 0o022, "chmod go-w"),
        (&dir.join("identity.json"), 0o077, "chmod 600"),
    ] {
        let metadata = std::fs::metadata(path).map_err(|error| chain(&FileError::of("look at", path)(error)))?;
        let path = path.display();
        if metadata.mode() & forbidden != 0 {
            return Err(format!("{path} is open to others than its owner: {remedy} {path}").into());
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own && metadata.uid() != 0 {
            let owner = metadata.uid();
            return Err(format!(
                "{path} belongs to user {owner}, and the agent runs as user {own}: run it as its owner (a packaged one by systemctl), or chown {own} {path}"
            )
            .into());
        }
    }
    Ok(())
}

/// On Windows the installer's ACL is what counts.
#[cfg(not(unix))]
fn check_rights(_: &Path, _: &Path) -> Result<(), Failure> {
    Ok(())
}

/// Two agents with one directory would run every job twice.
fn lock(dir: &Path) -> Result<std::fs::File, Failure> {
    let path = dir.join("agent.lock");
    let file = atomic_file::open_lock(&path).map_err(|error| chain(&error))?;
    file.try_lock().map_err(|_| format!("another agent runs with {}: stop it first", dir.display()))?;
    Ok(file)
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        },
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
