//! Edge. Who may pass: the operator or the agent behind a request, before its handler runs. What each operation asks of them is in
//! `routes`. Does not look at hosts that a path or a body names: the handlers do, with the operator that they are given.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::agent::with_small_file;
use super::answer::{Answer, Problem};
use super::request::{Request, shown};
use super::routes::{Door, Operation, Reach};
use super::{credential, pages};
use crate::id::HostName;
use crate::server::access::{Operator, Role, operator_of, sha256, sha256_hex, still_counts};
use crate::server::app::App;
use crate::server::credentials::{self, Standing};
use crate::server::host::Host;

/// The agent behind a request.
pub struct Agent {
    pub host: Arc<Host>,
    /// When the host was enrolled, as the journal said before the credential was looked at: one that is revoked meanwhile is
    /// noticed by it.
    pub enrolled_at: Option<DateTime<Utc>>,
    /// How often it had begun to use another credential, likewise.
    pub credentials_used: u32,
}

/// Lets the request through to the operation's handler, or does not. A browser gets the reason as a page.
pub async fn pass(app: &Arc<App>, operation: &Operation, request: Request) -> Result<Answer, Problem> {
    let mut visitor = None;
    let answered = answer(app, operation, request, &mut visitor).await;
    match answered {
        Err(problem) if operation.is_page => Ok(pages::refusal(visitor.as_ref(), problem)),
        answered => answered,
    }
}

/// `visitor`: the operator, as soon as it is known.
async fn answer(
    app: &Arc<App>,
    operation: &Operation,
    request: Request,
    visitor: &mut Option<Operator>,
) -> Result<Answer, Problem> {
    match operation.door() {
        Door::Open(handler) | Door::EnrollmentToken(handler) => handler(app, request).await,
        Door::Agent(handler) => {
            let agent = agent_behind(app, &request).await?;
            handler(app, request, agent).await
        }
        Door::Operator(role, reach, handler) => {
            let operator = operator_behind(app, &request)?;
            *visitor = Some(operator.clone());
            let (token, client, path) = (operator.name.clone(), request.client, request.path.clone());
            let answered = match check_allowed(&operator, &request, role, reach) {
                Err(problem) => Err(problem),
                Ok(()) => match operation.unknown(request.query.keys().map(String::as_str)) {
                    Some(name) => Err(unknown_parameter(operation, name)),
                    None => handler(app, request, operator).await,
                },
            };
            if answered.as_ref().is_err_and(Problem::is_forbidden) {
                tracing::warn!(%token, %client, method = %operation.method, path = %shown(&path), "refused: this token may not do that");
            }
            answered
        }
    }
}

/// What the script of the pages sends with its requests.
const OF_PAGE: &str = "x-restic-manager-page";

/// The operator whose token the request has.
fn operator_behind(app: &App, request: &Request) -> Result<Operator, Problem> {
    let refused = |detail: &str| {
        let problem = Problem::unauthorized(detail);
        if request.header(OF_PAGE).is_some() { problem.to_browser() } else { problem }
    };
    let token = request.token();
    let token = token.ok_or_else(|| refused("the request has no token: send Authorization: Bearer <token>"))?;
    let operator = operator_of(&app.tokens(), &token);
    let operator = operator.ok_or_else(|| refused("no operator has this token: see [[tokens]] in server.toml"))?;
    request.let_in();
    Ok(operator)
}

/// The operator of a request that nothing was asked of yet, if its token is one's.
pub(super) fn operator_with(app: &App, request: &Request) -> Option<Operator> {
    operator_of(&app.tokens(), &request.token()?)
}

/// Whether the token's role is at least `role` and its limit allows what is the fleet's where `reach` is that.
fn check_allowed(operator: &Operator, request: &Request, role: Role, reach: Reach) -> Result<(), Problem> {
    // A browser sends a password that it knows (Basic) with any site's form, so changes are taken from our own pages only.
    if role > Role::Viewer && request.is_of_another_site() {
        return Err(Problem::forbidden(
            "this request comes from another site's page: changes are taken from our own only",
        ));
    }
    if operator.role < role {
        return Err(Problem::forbidden(format!(
            "token {} has the role {}; this needs {role}",
            operator.name, operator.role
        )));
    }
    if reach == Reach::Fleet && operator.is_limited() {
        return Err(Problem::forbidden("this token is limited to some hosts; this is about the whole fleet"));
    }
    Ok(())
}

/// Refuses to go on with a request that has waited, when its token was taken out or changed meanwhile.
pub(super) fn check_still(app: &App, operator: &Operator) -> Result<(), Problem> {
    if still_counts(&app.tokens(), operator) {
        return Ok(());
    }
    Err(Problem::unauthorized("this token was taken out of server.toml, or changed, while the request waited"))
}

/// How often requests that wait look whether their token still counts: it is to be no longer than a second.
pub(super) const TOKEN_LOOK: Duration = Duration::from_millis(700);

/// Finds the host and checks that the credential is its own.
async fn agent_behind(app: &Arc<App>, request: &Request) -> Result<Agent, Problem> {
    let name: HostName = request.parameter("host")?;
    request.check_certificate()?;
    let Some(credential) = request.token() else {
        return Err(Problem::unauthorized("the request has no credential: send Authorization: Bearer <credential>"));
    };
    let Some(host) = app.current_host(&name).await else { return Err(not_authorized(&name)) };
    let state = host.slot.durable().state;
    let (enrolled_at, credentials_used) = (state.enrolled_at, state.credentials_used);
    drop(state);
    let hash = sha256(credential.as_bytes());
    if !host.was_let_in_lately(&hash) {
        let (dir, hex) = (host.dir.clone(), sha256_hex(credential.as_bytes()));
        match with_small_file(move || credentials::standing(&dir, &hex)).await? {
            None => return Err(not_authorized(&name)),
            Some(Standing::Present) => {}
            Some(Standing::Next) => {
                credential::use_next(app, request, &host, sha256_hex(credential.as_bytes())).await?;
            }
        }
        host.let_in(hash);
    }
    request.let_in();
    Ok(Agent { host, enrolled_at, credentials_used })
}

pub(super) fn not_authorized(host: &HostName) -> Problem {
    Problem::unauthorized(format!(
        "this credential is not the one of host {host}: enroll the agent again, with a new token"
    ))
}

fn unknown_parameter(operation: &Operation, name: &str) -> Problem {
    let there_are = match operation.query {
        [] => "there is none".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    let (method, path, name) = (&operation.method, operation.path, shown(name));
    Problem::bad_request("bad-query", format!("{method} {path} has no parameter {name}: {there_are}"))
}
