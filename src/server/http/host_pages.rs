//! Edge. The pages of one host, one job and one snapshot: what they show is collected here, from memory, from files, and of a snapshot from the
//! agent. Does not change anything but that a question makes a query's job, as the API's does.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};

use super::answer::{Answer, Problem, html};
use super::operator::{contact, host_of, is_online, job_of, progress_of};
use super::pages::{page, parameter, visitor};
use super::queries::{Listed, begin_listing, listed};
use super::request::{Request, shown};
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::protocol::agent_event::Snapshot;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::events_in::read_snapshots;
use crate::server::host::Host;
use crate::server::page::fleet::HostLine;
use crate::server::page::host::{FromFiles, host_page};
use crate::server::page::host_facts::Known;
use crate::server::page::html::Link;
use crate::server::page::job::{JobNow, job_page};
use crate::server::page::snapshot::{Asked, Folder, PAGE, snapshot_page};
use crate::server::{job_log, lease_loop};

/// Bytes of a log's end that are read for a page.
const LOG_BYTES: usize = 64 * 1024;
/// Characters of a snapshot's id that restic takes for it at least.
const SHORTEST_ID: usize = 4;
/// How long a page waits for the agent's answer before it is shown without.
const WAIT_SECS: u64 = 10;

/// `GET /hosts/{host}`.
pub async fn host(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let all_snapshots = parameter(&request, "snapshots") == "all";
    let app = Arc::clone(app);
    blocking(move || {
        let now = clock::now();
        let past = app.pasts.of(&host, now)?;
        let list = snapshots_of(&host);
        let snapshots = match &list {
            Ok(list) => Ok(list.as_slice()),
            Err(error) => Err(format!("The list is unknown until the agent's next report: {}", chain(error))),
        };
        let (state, content, contact) = (host.slot.durable().state, host.content(), contact(&app, &host));
        let line = HostLine::of(&host.name, &state, content.as_deref(), &contact, now);
        let known =
            Known { name: host.name.as_str(), state: &state, content: content.as_deref(), contact: &contact, line };
        let files = FromFiles { past: &past.past, newest_jobs: &past.newest, snapshots, all_snapshots };
        Ok(page(host_page(&visitor(&operator), &known, &files, now)))
    })
    .await
}

fn snapshots_of(host: &Host) -> Result<Vec<Snapshot>, FileError> {
    let mut list = read_snapshots(&host.dir.join("snapshots.json"))?.map(|file| file.snapshots).unwrap_or_default();
    list.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.time));
    Ok(list)
}

/// `GET /jobs/{job}`.
pub async fn job(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (host, job) = job_of(app, &request, &operator).await?;
    let app = Arc::clone(app);
    blocking(move || {
        let (log, is_cut) = job_log::end(&host.log_path(job.id), LOG_BYTES)?;
        let progress = progress_of(&host, &job);
        let now_of = JobNow {
            host: host.name.as_str(),
            job: &job,
            progress: progress.as_ref(),
            in_contact: is_online(&app, &host),
            waiting_for: lease_loop::waiting_for(&app, &host, &job).filter(|_| job.is_undispatched()),
            log: &log,
            is_cut,
        };
        Ok(page(job_page(&visitor(&operator), &now_of, clock::now())))
    })
    .await
}

/// `GET /hosts/{host}/snapshots/{snapshot}?path=&job=&after=`. The agent is asked once: the page then has the question's job in its
/// address, so that to load it again is not to ask again.
pub async fn snapshot(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let name = request.parameters.get("snapshot").cloned().unwrap_or_default();
    let path = match parameter(&request, "path") {
        "" => "/",
        path => path,
    };
    check_snapshot(&host, &name).await?;
    let has_answer = !parameter(&request, "job").is_empty() || !parameter(&request, "after").is_empty();
    let asked = if has_answer {
        match listed(app, &request, &host, &operator, PAGE, WAIT_SECS).await {
            Ok(Listed::Entries { entries, next, is_cut }) => Asked::Entries { entries, next, is_cut },
            Ok(Listed::NotYet(job)) => Asked::NotYet(job),
            Err(problem) if problem.is_not_found() => return Err(problem),
            Err(problem) => Asked::Refused(problem.detail().to_owned()),
        }
    } else if request.is_of_another_site() {
        Asked::NotAsked
    } else {
        match begin_listing(app, &host, &operator, &name, path).await {
            Ok(job) => {
                let to = Link::to("/hosts").segment(host.name.as_str()).segment("snapshots").segment(&name);
                return Ok(see_other(&to.query("path", path).query("job", job)));
            }
            Err(problem) => Asked::Refused(problem.detail().to_owned()),
        }
    };
    let server = own_address(app, &request);
    let folder = Folder { host: host.name.as_str(), snapshot: &name, path, server: &server };
    let now: DateTime<Utc> = clock::now();
    Ok(page(snapshot_page(&visitor(&operator), &folder, &asked, now)))
}

/// 404 where the agent has told which snapshots there are, and this is none of them: the agent need not be asked.
async fn check_snapshot(host: &Arc<Host>, name: &str) -> Result<(), Problem> {
    let path = host.dir.join("snapshots.json");
    let Some(file) = blocking(move || read_snapshots(&path)).await? else { return Ok(()) };
    let is_there =
        name == "latest" || name.len() >= SHORTEST_ID && file.snapshots.iter().any(|s| s.id.starts_with(name));
    if is_there {
        return Ok(());
    }
    let detail = format!(
        "host {} has no snapshot {}, by its agent's last report: the host's page lists those there are",
        shown(host.name.as_str()),
        shown(name)
    );
    Err(Problem::not_found("no-such-snapshot", detail))
}

fn see_other(to: &Link) -> Answer {
    let mut answer = html(StatusCode::SEE_OTHER, String::new());
    if let Ok(location) = HeaderValue::from_str(to.as_str()) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// Where the browser reached this server, for a line that is to be pasted elsewhere. A TLS proxy in front says so.
fn own_address(app: &App, request: &Request) -> String {
    let by_proxy = request.header("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let scheme = if by_proxy || app.tls.current().is_some() { "https" } else { "http" };
    format!("{scheme}://{}", request.header("host").unwrap_or("localhost"))
}
