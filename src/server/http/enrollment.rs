//! Edge. The operators' endpoints that let agents in and out: enrollment tokens and revocation. Does not enroll: `agent` does.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::{Answer, Problem, json, ok};
use super::audit;
use super::operator::{host_of, no_such_host};
use super::request::{ContentType, Request};
use crate::clock;
use crate::file_error::FileError;
use crate::id::HostName;
use crate::job::{Actor, ActorKind};
use crate::protocol::text::Span;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
use crate::server::credentials::{self, EnrollmentToken};
use crate::server::fact::{Fact, HostRevoked};
use crate::server::fleet_state::EnrollmentTokenMade;
use crate::server::host::append_facts;
use crate::server::state_dir;

/// Default and longest life of an enrollment token.
const DEFAULT_TOKEN_LIFE: Span = Span::from_secs(3600);
const LONGEST_TOKEN_LIFE: Span = Span::from_secs(30 * 86_400);

/// `DELETE /v1/hosts/{host}/credential`: revokes at once, a parked poll included.
pub async fn revoke(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let host = host_of(app, &request, &operator).await?;
    let (dir, enrollments, name) = (host.dir.clone(), app.state_dir.enrollments_dir(), host.name.clone());
    blocking(move || credentials::remove_tokens_of(&enrollments, &name).and_then(|()| credentials::revoke(&dir)))
        .await?;
    host.forget_credential();
    let actor = Actor { kind: ActorKind::Operator, name: operator.name.clone() };
    let dir = host.dir.clone();
    let revoked = host.slot.write(move |batch| {
        // Once more, in the order of the host's batches: an agent that was changing its credential may have written it again.
        credentials::revoke(&dir)?;
        append_facts(batch, |_, _| vec![Fact::HostRevoked(HostRevoked { actor })]);
        Ok::<_, FileError>(())
    });
    revoked.await??;
    host.forget_credential();
    audit::changed(app, request.client, &operator, Action::CredentialRevoke, Some(&host.name), None).await?;
    tracing::warn!(host = %host.name, by = %operator.name, "credential revoked");
    host.slot.wake_everywhere();
    Ok(ok(&json!({"host": host.name, "revoked": true})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    host: HostName,
    #[serde(default)]
    ttl: Option<Span>,
}

#[derive(Serialize)]
struct TokenAnswer {
    token: String,
    host: HostName,
    expires_at: DateTime<Utc>,
}

/// `POST /v1/enrollment-tokens`: the token, shown once.
pub async fn enrollment_token(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (body, _) = request.json::<TokenRequest>(ContentType::MustBeJson).await?;
    let known = app.current_host(&body.host).await.filter(|host| operator.may_see(&host.name));
    if known.is_none_or(|host| host.content().is_none_or(|content| !content.configured)) {
        return Err(no_such_host(body.host.as_str()));
    }
    let ttl = body.ttl.unwrap_or(DEFAULT_TOKEN_LIFE);
    if ttl.is_zero() || ttl > LONGEST_TOKEN_LIFE {
        return Err(Problem::unprocessable("invalid", format!("ttl is 1s to {LONGEST_TOKEN_LIFE}")));
    }
    let now = clock::now();
    let expires_at = now + TimeDelta::from_std(ttl.duration()).unwrap_or(TimeDelta::hours(1));
    let token = state_dir::new_token("rme_");
    let kept = EnrollmentToken { host: body.host.clone(), expires_at };
    let (dir, text) = (app.state_dir.enrollments_dir(), token.clone());
    blocking(move || credentials::keep_token(&dir, &text, &kept)).await?;
    let made = EnrollmentTokenMade { host: body.host.clone(), expires_at, by: operator.name.clone() };
    crate::server::fleet_reload::append_fleet(app, EnrollmentTokenMade::TYPE, made).await?;
    audit::changed(app, request.client, &operator, Action::EnrollmentTokenCreate, Some(&body.host), None).await?;
    Ok(json(StatusCode::CREATED, &TokenAnswer { token, host: body.host, expires_at }))
}
