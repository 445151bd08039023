//! Edge. Alerts over HTTP: those that are open, an operator's word that one is seen to, and the channels on which they are told.
//! Does not raise or resolve any.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Problem, ok};
use super::audit;
use super::operator::page_limit;
use super::request::{ContentType, Request, shown};
use crate::clock;
use crate::id::{AlertId, ChannelName};
use crate::server::access::Operator;
use crate::server::alert::{AlertAcknowledged, alert_view};
use crate::server::alert_channels_state::ChannelState;
use crate::server::alert_loop;
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
use crate::server::channel_loop::{self, all_channels, channel_of};
use crate::server::fleet_reload::append_fleet;
use crate::server::fleet_state::rejection_alert;
use crate::server::view;

/// `GET /v1/alerts?limit=&after=`: those that are open, the fleet's own first, then by host, each host's oldest first; `next` is the host to continue after.
pub async fn alerts(app: &Arc<App>, request: Request, operator: Operator) -> Result<Answer, Problem> {
    let limit = page_limit(&request)?;
    let after: String = request.query("after")?.unwrap_or_default();
    let app = Arc::clone(app);
    app.shared.servers.sync().await;
    blocking(move || {
        let mut hosts =
            app.hosts().into_iter().filter(|host| operator.may_see(&host.name) && host.name.as_str() > after.as_str());
        let (mut alerts, mut next) = (Vec::new(), None);
        if !operator.is_limited() && after.is_empty() {
            alerts.extend(rejection_alert(&app.fleet.durable().state).map(|alert| alert_view(None, &alert)));
        }
        // A host's alerts are never on two pages.
        while alerts.len() < limit {
            let Some(host) = hosts.next() else { return Ok(ok(&view::page("alerts", alerts, None))) };
            let state = host.slot.durable().state;
            alerts.extend(state.alerts.iter().map(|alert| alert_view(Some(&host.name), alert)));
            next = Some(host.name.to_string());
        }
        Ok(ok(&view::page("alerts", alerts, next.filter(|_| hosts.next().is_some()))))
    })
    .await
}

/// `POST /v1/alerts/{alert}/ack`: it stays open until its cause ends. Repeating it changes nothing.
pub async fn acknowledge(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let text = request.parameters.get("alert").cloned().unwrap_or_default();
    let none = || {
        Problem::not_found("no-such-alert", format!("{} is no alert that is open: see GET /v1/alerts", shown(&text)))
    };
    let id: AlertId = text.parse().map_err(|_| none())?;
    request.no_fields().await?;
    app.shared.servers.sync().await;
    if !operator.is_limited() && rejection_alert(&app.fleet.durable().state).is_some_and(|alert| alert.id == id) {
        let fact = AlertAcknowledged { alert_id: id, by: operator.name.clone() };
        append_fleet(app, AlertAcknowledged::TYPE, fact).await?;
        audit::changed(app, request.client, &operator, Action::AlertAcknowledge, None, None).await?;
        let alert = rejection_alert(&app.fleet.durable().state).ok_or_else(none)?;
        return Ok(ok(&alert_view(None, &alert)));
    }
    let place = Arc::clone(app);
    let found = blocking(move || alert_loop::find(&place, id)).await;
    let Some((host, _)) = found.filter(|(host, _)| operator.may_see(&host.name)) else {
        return Err(none());
    };
    alert_loop::acknowledge(&host, id, operator.name.clone()).await?;
    audit::changed(app, request.client, &operator, Action::AlertAcknowledge, Some(&host.name), None).await?;
    let state = host.slot.durable().state;
    let alert = state.alerts.get(id).ok_or_else(none)?;
    Ok(ok(&alert_view(Some(&host.name), alert)))
}

/// `GET /v1/alerts/channels`: each channel's state.
pub async fn channels(app: &Arc<App>, _: Request, _: Operator) -> Result<Answer, Problem> {
    app.shared.servers.sync().await;
    let app = Arc::clone(app);
    blocking(move || {
        let views: Vec<Value> = all_channels(&app, clock::now()).iter().map(ChannelState::view).collect();
        Ok(ok(&json!({ "channels": views })))
    })
    .await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestRequest {
    channel: String,
}

/// `POST /v1/alerts/test`: sends a message on the channel now, and answers what was said there.
pub async fn test(app: &Arc<App>, mut request: Request, operator: Operator) -> Result<Answer, Problem> {
    let (TestRequest { channel }, _) = request.json(ContentType::MustBeJson).await?;
    let found = channel.parse::<ChannelName>().ok().and_then(|name| channel_of(app, &name));
    let found = found.ok_or_else(|| {
        let detail = format!("there is no channel {} in server.toml's [alerts.channels]", shown(&channel));
        Problem::not_found("no-such-channel", detail)
    })?;
    audit::changed(app, request.client, &operator, Action::AlertTest, None, None).await?;
    match channel_loop::test(app, &found, format!("test-{}", uuid::Uuid::new_v4())).await? {
        Ok(said) => Ok(ok(&json!({ "channel": found.name, "said": said }))),
        Err(error) => Err(Problem::new(StatusCode::BAD_GATEWAY, "channel-failed", error)),
    }
}
