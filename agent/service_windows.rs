//! Edge. The agent as a Windows service: its registration and recovery, its life under the service manager, and the access list of
//! its directory. A stop or a shutdown ends jobs as SIGTERM does on Linux. Does not know what the agent does meanwhile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use restic_manager::file_error::chain;
use tokio::sync::watch;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

use crate::identity::Identity;
use crate::{Directory, Failure, run as agent_run};

pub(crate) const NAME: &str = "restic-manager-agent";
/// How long the agent may take to stop; its jobs have 110 s of it (`run::serve`).
const STOP_WITHIN: Duration = Duration::from_secs(120);
/// A failed agent is restarted after these, then always after the last; a day without failure begins anew.
const RESTARTS_AFTER_SECS: [u64; 3] = [5, 30, 60];
/// Well-known SIDs: names are translated on localised systems.
const OWNERS: [&str; 2] = ["*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F"];
const ADMINISTRATORS: &str = "*S-1-5-32-544";

/// The dispatcher calls a plain function, which finds the directory here.
static DIRECTORY: OnceLock<Directory> = OnceLock::new();

define_windows_service!(service_main, serve);

/// Registers and starts the service of a host that is enrolled. Repeating it is harmless: what is there is brought up to date.
pub(crate) fn install(directory: &Directory) -> Result<(), Failure> {
    agent_run::read_settings(&directory.settings_file())?;
    let (service, log) = register(directory)?;
    start(&service)?;
    println!("the service {NAME} is installed; its log is {}", log.display());
    Ok(())
}

/// The same for an installer, which comes before the enrollment as well as after it: a host that is not enrolled has a service that
/// does not run yet.
pub(crate) fn configure(directory: &Directory) -> Result<(), Failure> {
    let (service, log) = register(directory)?;
    // That the identity cannot be read is no reason to leave an older program there.
    let identity = Identity::read(&directory.dir).unwrap_or_else(|error| {
        println!("warning: {}", chain(&error));
        None
    });
    if !identity.is_some_and(|identity| identity.enrolled) {
        println!("the service {NAME} is registered; enroll this host, then: restic-manager-agent service install");
        return Ok(());
    }
    start(&service)?;
    println!("the service {NAME} is started; its log is {}", log.display());
    Ok(())
}

/// The service as it should be registered, and where its log is.
fn register(directory: &Directory) -> Result<(Service, PathBuf), Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let dir = absolute(&directory.dir)?;
    let mut launch_arguments = vec!["service".into(), "run".into(), "--dir".into(), dir.clone().into_os_string()];
    if let Some(config) = &directory.config {
        launch_arguments.extend(["--config".into(), absolute(config)?.into_os_string()]);
    }
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program's file: {error}"))?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "restic-manager agent".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        launch_arguments,
        dependencies: Vec::new(),
        // LocalSystem: it reads everything that is to be backed up.
        account_name: None,
        account_password: None,
    };
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    let service = match manager.open_service(NAME, access) {
        Ok(service) => service.change_config(&info).map(|()| service),
        Err(_) => manager.create_service(&info, access),
    };
    let service = service.map_err(|error| told("register the service", &error))?;
    let _ = service.set_description("Backs this host up as its restic-manager server says");
    let restart = |after| ServiceAction { action_type: ServiceActionType::Restart, delay: Duration::from_secs(after) };
    let recovery = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(24 * 60 * 60)),
        reboot_msg: None,
        command: None,
        actions: Some(RESTARTS_AFTER_SECS.map(restart).to_vec()),
    };
    service.update_failure_actions(recovery).map_err(|error| told("set the service's recovery", &error))?;
    // Also when the agent ends with an error of its own accord.
    if let Err(error) = service.set_failure_actions_on_non_crash_failures(true) {
        println!("warning: {}", told("have the service restarted after errors too", &error).text);
    }
    Ok((service, log_path(&dir)))
}

fn start(service: &Service) -> Result<(), Failure> {
    let state = service.query_status().map_err(|error| told("look at the service", &error))?.current_state;
    if state == ServiceState::Stopped {
        service.start::<OsString>(&[]).map_err(|error| told("start the service", &error))?;
    }
    Ok(())
}

/// Stops and removes the service. That there is none is fine.
pub(crate) fn uninstall() -> Result<(), Failure> {
    let manager = manager(ServiceManagerAccess::CONNECT)?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = match manager.open_service(NAME, access) {
        Ok(service) => service,
        Err(error) if os_error(&error) == Some(ERROR_SERVICE_DOES_NOT_EXIST) => {
            println!("there is no service {NAME}");
            return Ok(());
        }
        Err(error) => return Err(told("open the service", &error)),
    };
    let is_stopped = || service.query_status().is_ok_and(|status| status.current_state == ServiceState::Stopped);
    if !is_stopped() {
        service.stop().map_err(|error| told("stop the service", &error))?;
        let patience = Instant::now() + STOP_WITHIN;
        while !is_stopped() {
            if Instant::now() > patience {
                return Err(format!("the service {NAME} did not stop in time: end it, then repeat this").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    service.delete().map_err(|error| told("remove the service", &error))?;
    println!("the service {NAME} is removed; the agent's directory is still there");
    Ok(())
}

/// Hands this process to the service manager, until the service has stopped.
pub(crate) fn run(directory: &Directory) -> Result<(), Failure> {
    let _ = DIRECTORY.set(directory.clone());
    service_dispatcher::start(NAME, service_main).map_err(|error| {
        let text = told("reach the service manager", &error).text;
        format!("{text}: only it starts this command; by hand it is: restic-manager-agent run").into()
    })
}

/// The life of the service, on the dispatcher's thread.
fn serve(_: Vec<OsString>) {
    let Some(directory) = DIRECTORY.get() else { return };
    let (stop, mut stopped) = watch::channel(false);
    let handler = move |control| match control {
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        ServiceControl::Stop | ServiceControl::Shutdown => {
            let _ = stop.send(true);
            ServiceControlHandlerResult::NoError
        }
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let Ok(reports) = service_control_handler::register(NAME, handler) else { return };
    let report = |current_state, exit_code, wait_hint| {
        let is_running = current_state == ServiceState::Running;
        let accepted = ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN;
        let _ = reports.set_service_status(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state,
            controls_accepted: if is_running { accepted } else { ServiceControlAccept::empty() },
            exit_code: ServiceExitCode::Win32(exit_code),
            checkpoint: 0,
            wait_hint,
            process_id: None,
        });
    };
    report(ServiceState::Running, 0, Duration::ZERO);
    let asked = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        report(ServiceState::StopPending, 0, STOP_WITHIN);
    };
    restic_manager::logging::start_in_file(&log_path(&directory.dir));
    let ended = agent_run::run_until(directory, asked);
    if let Err(failure) = &ended {
        tracing::error!("{}", failure.text);
    }
    // Other than 0 is a failure, after which the service manager restarts us.
    report(ServiceState::Stopped, u32::from(ended.is_err()) * ERROR_SERVICE_SPECIFIC_ERROR, Duration::ZERO);
}

/// Gives a directory and all in it to SYSTEM and the administrators alone. Called before any secret is in it; one that somebody
/// else has made beforehand changes its owner too.
///
/// # Errors
/// We are no administrator, mostly.
pub(crate) fn close_to_others(dir: &Path) -> Result<(), Failure> {
    let root = std::env::var("SystemRoot").unwrap_or_else(|_| r"C:\Windows".to_owned());
    let icacls = Path::new(&root).join("System32").join("icacls.exe");
    let call = |arguments: &[&str]| {
        #[allow(clippy::disallowed_methods, reason = "a command of a moment, before there is a runtime's work")]
        let output = std::process::Command::new(&icacls).arg(dir).args(arguments).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    call(&["/setowner", ADMINISTRATORS, "/T", "/Q"])
        .and_then(|()| call(&["/inheritance:r", "/grant:r", OWNERS[0], "/grant:r", OWNERS[1], "/Q"]))
        .map_err(|error| {
            format!("cannot close {} to others: {error}: run this as an administrator", dir.display()).into()
        })
}

const ERROR_SERVICE_DOES_NOT_EXIST: i32 = 1060;
const ERROR_SERVICE_SPECIFIC_ERROR: u32 = 1066;

fn log_path(dir: &Path) -> PathBuf {
    dir.join("agent.log")
}

fn manager(access: ServiceManagerAccess) -> Result<ServiceManager, Failure> {
    ServiceManager::local_computer(None::<&str>, access).map_err(|error| told("reach the service manager", &error))
}

fn os_error(error: &windows_service::Error) -> Option<i32> {
    if let windows_service::Error::Winapi(error) = error { error.raw_os_error() } else { None }
}

fn told(what: &str, error: &windows_service::Error) -> Failure {
    let why = if let windows_service::Error::Winapi(error) = error { error.to_string() } else { error.to_string() };
    let remedy = if os_error(error) == Some(5) { ": run this as an administrator" } else { "" };
    format!("cannot {what}: {why}{remedy}").into()
}
