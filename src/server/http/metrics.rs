//! Edge. `GET /metrics`: gathers what memory holds, and sends it as text in pieces. Does not read history, and does not know which
//! figures are told: `metrics` does.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, HeaderValue};

use super::answer::{Answer, Problem, answer};
use super::operator::contact;
use super::request::Request;
use crate::clock;
use crate::problem::Severity;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::channel_loop::all_channels;
use crate::server::host::Host;
use crate::server::metrics::text::CONTENT_TYPE;
use crate::server::metrics::{ConfigFigures, FleetFigures, HostFigures, Pieces, Snapshot, TrafficFigures};
use crate::server::own_cost::own_cost;

/// A limited token gets its own hosts', and nothing of the fleet's or the server's but its version.
pub async fn metrics(app: &Arc<App>, _: Request, operator: Operator) -> Result<Answer, Problem> {
    app.shared.servers.sync().await;
    let app = Arc::clone(app);
    let snapshot = blocking(move || gather(&app, &operator)).await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
    tokio::spawn(async move {
        for piece in Pieces::of(snapshot) {
            // Who asked has gone.
            if sender.send_data(Bytes::from(piece)).await.is_err() {
                return;
            }
        }
    });
    let mut answer = answer(StatusCode::OK, CONTENT_TYPE, body.boxed_unsync());
    // Not for caches that many share; its own client may keep it, and ask whether it is still so.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(answer)
}

fn gather(app: &App, operator: &Operator) -> Snapshot {
    let in_company = app.shared.servers.in_company();
    let hosts = app.hosts().into_iter().filter(|host| operator.may_see(&host.name));
    let hosts = hosts.filter_map(|host| {
        if in_company {
            host.read_seen();
        }
        host_figures(app, &host)
    });
    Snapshot {
        now: clock::now(),
        version: env!("CARGO_PKG_VERSION"),
        hosts: hosts.collect(),
        fleet: (!operator.is_limited()).then(|| FleetFigures {
            config: config_figures(app),
            channels: all_channels(app, clock::now()),
            pings: app.pings.figures(),
            traffic: traffic_figures(app),
            process: own_cost(app.outage.ready_at),
        }),
    }
}

/// `None` of a host that is not in the configuration any more.
fn host_figures(app: &App, host: &Host) -> Option<HostFigures> {
    let content = host.content().filter(|content| content.configured)?;
    Some(HostFigures {
        name: host.name.clone(),
        state: host.slot.durable().state,
        content: Some(content),
        contact: contact(app, host),
        spool_bytes: host.spool_bytes(),
    })
}

fn config_figures(app: &App) -> ConfigFigures {
    let (state, view) = (app.fleet.durable().state, app.config());
    let of_tls = app.tls.problem();
    let problems = || view.problems.iter().chain(of_tls.as_ref());
    let errors = problems().filter(|problem| problem.severity == Severity::Error).count() as u64;
    ConfigFigures {
        adopted: state.version,
        adopted_at: state.adopted_at,
        is_rejected: state.rejected_hash.is_some(),
        hosts: state.adopted.as_ref().map_or(0, |adopted| adopted.hosts as u64),
        errors,
        warnings: problems().count() as u64 - errors,
    }
}

fn traffic_figures(app: &App) -> TrafficFigures {
    TrafficFigures {
        requests: app.traffic.answered(),
        parked: app.traffic.parked.count(),
        connections: app.traffic.connections.count(),
        writes: app.shared.writes.load(Ordering::Relaxed),
        failed_writes: app.shared.failed_writes.load(Ordering::Relaxed),
    }
}
