//! Edge. The operators' endpoints that make jobs: any kind, and restores with words of their own. Parses, asks `decide`, writes, and
//! answers with the job, at once or when it has ended.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::answer::{Answer, Problem, json as json_answer};
use super::audit;
use super::operator::{host_of, is_away, shown_job, wait_for_end, wait_for_turn};
use super::request::{ContentType, Request};
use crate::clock;
use crate::id::{JobId, ScheduleId};
use crate::job::{Actor, ActorKind};
use crate::protocol::text::Span;
use crate::server::access::{Operator, Role, sha256_hex};
use crate::server::app::App;
use crate::server::audit::Action;
use crate::server::decide::{JobDecision, JobRequest, Refusal, decide_job};
use crate::server::host::{Host, append_facts};

/// Longest `?wait=` of a job creation, in seconds.
const LONGEST_JOB_WAIT_SECS: u64 = 300;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateJob {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    schedule_id: Option<ScheduleId>,
    #[serde(default)]
    options: Option<Value>,
    #[serde(default)]
    queue_for: Option<Span>,
}

/// `POST /v1/hosts/{host}/jobs`.
pub async fn create_job(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let (body, bytes) = request.json::<CreateJob>(ContentType::MustBeJson).await?;
    let removes_all = body.options.as_ref().is_some_and(|o| o.get("remove_all") == Some(&Value::Bool(true)));
    if removes_all && operator.role < Role::Admin {
        return Err(Problem::forbidden(
            "unlock with remove_all needs an admin's token: it removes the locks of running jobs",
        ));
    }
    start_job(app, &host, &request, &operator, (body.kind, body.schedule_id, body.options, body.queue_for), &bytes)
        .await
}

/// The options of a restore as they are, and how long it may wait.
#[derive(Debug, Deserialize)]
struct RestoreRequest {
    #[serde(default)]
    queue_for: Option<Span>,
    #[serde(flatten)]
    options: Map<String, Value>,
}

/// `POST /v1/hosts/{host}/restore`: the restore job, with the restore's own words.
pub async fn restore(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let (body, bytes) = request.json::<RestoreRequest>(ContentType::MustBeJson).await?;
    let asked = (Some("restore".to_owned()), None, Some(Value::Object(body.options)), body.queue_for);
    start_job(app, &host, &request, &operator, asked, &bytes).await
}

async fn start_job(
    app: &Arc<App>,
    host: &Arc<Host>,
    request: &Request,
    operator: &Operator,
    (kind, schedule_id, options, queue_for): (Option<String>, Option<ScheduleId>, Option<Value>, Option<Span>),
    body: &[u8],
) -> Result<Answer, Problem> {
    let is_restore = kind.as_deref() == Some("restore");
    let confirmed = options.as_ref().and_then(|options| options.get("confirm")).and_then(Value::as_str);
    if is_restore && confirmed.is_some_and(|confirmed| confirmed != host.name.as_str()) {
        let detail =
            format!("`confirm` is not this host's name: to write over what is there, repeat {:?}", host.name.as_str());
        return Err(Problem::unprocessable("not-confirmed", detail));
    }
    let key = request.header("idempotency-key").map(str::to_owned);
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err(Problem::bad_request("bad-idempotency-key", "an Idempotency-Key has 1 to 255 characters"));
    }
    let idempotency = key.map(|key| crate::server::fact::Idempotency {
        key,
        // The same body to another endpoint is another request.
        body_sha256: sha256_hex(&[request.path.as_bytes(), b"\n", body].concat()),
    });
    let job_request = JobRequest {
        kind,
        schedule_id,
        options,
        actor: Actor { kind: ActorKind::Operator, name: operator.name.clone() },
        idempotency,
        new_id: JobId(uuid::Uuid::new_v4()),
        queue_for,
        is_offline: is_away(app, host),
    };
    let wait = request.query::<u64>("wait")?.unwrap_or(0).min(LONGEST_JOB_WAIT_SECS);
    let content = host.content();
    let decided = host
        .slot
        .write(move |batch| {
            let decision = decide_job(batch.state(), content.as_deref(), &job_request, clock::now())?;
            Ok::<_, Refusal>(match decision {
                JobDecision::Existing(id) => (id, false),
                JobDecision::New(id, facts) => {
                    append_facts(batch, |_, _| facts);
                    (id, true)
                }
            })
        })
        .await?;
    let (id, is_new) = decided?;
    app.leases.attend(&host.name);
    if is_new {
        let action = if is_restore { Action::JobRestore } else { Action::JobCreate };
        audit::changed(app, request.client, operator, action, Some(&host.name), Some(id)).await?;
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    wait_for_turn(host, id).await;
    wait_for_end(app, host, id, operator, Duration::from_secs(wait)).await;
    let shown = shown_job(app, host, id).await?;
    let mut answer = json_answer(status, &shown);
    if let Ok(location) = format!("/v1/jobs/{id}").parse() {
        answer.headers_mut().insert(hyper::header::LOCATION, location);
    }
    Ok(answer)
}
