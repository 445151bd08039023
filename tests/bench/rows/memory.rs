//! What a parked poll costs: the growth of resident memory, by the number of polls. Before, every host is enrolled, its
//! agent has said hello, and all connections are closed.

use serde_json::json;

use super::{nchan, park};
use crate::processes::{rss_kib, settle};
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome};

pub(super) fn plain(bench: &Bench) -> Outcome<Vec<Line>> {
    measure(bench, false)
}

pub(super) fn tls(bench: &Bench) -> Outcome<Vec<Line>> {
    measure(bench, true)
}

fn measure(bench: &Bench, tls: bool) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let bar = bench.bar(bench.runs, "runs");
    let (mut ours, mut raw, mut hyper, mut nginx) = (Vec::new(), Vec::new(), Vec::new(), Ok(Vec::new()));
    for _ in 0..bench.runs {
        let server = fleet.start(tls)?;
        let mut agents = fleet.agents(&server)?;
        ours.push(growth(server.id(), fleet.agents, || park(&mut agents, &server))?);
        drop(agents);
        server.stop()?;
        for (style, runs) in [("raw", &mut raw), ("hyper", &mut hyper)] {
            let (floor, mut clients) = bench.floor(style, tls)?;
            // A first client, so that what is made once is made.
            clients.ask(&json!({"do": "greet", "count": 8, "at_once": 8}))?;
            runs.push(growth(floor.id(), fleet.agents, || parked(&mut clients, floor.id(), fleet.agents))?);
        }
        if let Ok(runs) = &mut nginx {
            match nchan::Nchan::start(bench, tls) {
                Ok(nchan) => {
                    let mut clients = bench.sockets(nchan.port, tls)?;
                    runs.push(growth(nchan.worker, fleet.agents, || parked(&mut clients, nchan.worker, fleet.agents))?);
                }
                Err(missing) => nginx = Err(missing),
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let work = format!("memory per parked poll{}", if tls { ", TLS" } else { "" });
    let (row, limit) = if tls { ("memory-tls", 11.0) } else { ("memory", 2.0) };
    let line = |reference, goal| Line { row, work: work.clone(), unit: "KiB", ours: ours.clone(), reference, goal };
    let floor = if tls { "rustls, boxed, no buffers" } else { "raw sockets" };
    let as_it_comes = if tls { "hyper + rustls as they come" } else { "hyper as it comes" };
    Ok(vec![
        line(Reference::Runs(floor.to_owned(), raw), Goal::AtMost(limit)),
        line(Reference::Runs(as_it_comes.to_owned(), hyper), Goal::None),
        line(nchan::reference("nchan", nginx), Goal::None),
    ])
}

#[allow(clippy::cast_precision_loss, reason = "a count of polls")]
fn growth(id: u32, polls: usize, park: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    settle(id)?;
    let before = rss_kib(id)?;
    park()?;
    Ok((rss_kib(id)? - before) / polls as f64)
}

fn parked(clients: &mut crate::processes::Worker, id: u32, count: usize) -> Outcome<()> {
    clients.ask(&json!({"do": "park", "path": "/park", "count": count, "at_once": 8}))?;
    settle(id)
}
