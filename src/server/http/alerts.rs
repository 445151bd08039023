//! Edge. Alerts over HTTP: those that are open, and an operator's word that one is seen to. Does not raise or resolve any.

use std::sync::Arc;

use super::answer::{Answer, Problem, ok};
use super::audit;
use super::operator::page_limit;
use super::request::{Request, shown};
use crate::id::AlertId;
use crate::server::access::Operator;
use crate::server::alert::{AlertAcknowledged, alert_view};
use crate::server::alert_loop;
use crate::server::app::{App, blocking};
use crate::server::audit::Action;
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
