//! `GET /metrics` of 2,000 hosts with a history, from the request to the answer's last byte; and of a tenth of them.

use serde_json::json;

use crate::agents::host_name;
use crate::history_files::{self, FORM};
use crate::processes::Server;
use crate::table::{Goal, Line, Reference, whole};
use crate::{Bench, Outcome, fleet_files};

/// Of each host.
const EVENTS: u64 = 100;

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let count = bench.size(5, 20);
    let mut lines = Vec::new();
    for hosts in [bench.size(20, 200), bench.size(100, 2000)] {
        let fleet = make(bench, hosts)?;
        let server = Server::start(&fleet, None)?;
        let mut client = super::worker(&fleet, &server, 0, hosts)?;
        client.ask(&json!({"do": "enroll", "at_once": 32}))?;
        client.ask(&json!({"do": "hello", "at_once": 32}))?;
        client.ask(&json!({"do": "events", "seconds": 0.1, "posters": 32, "batch": 1}))?;
        crate::processes::settle(server.id())?;
        let (mut ours, mut told) = (Vec::new(), String::new());
        let bar = bench.bar(bench.runs, "runs");
        for _ in 0..bench.runs {
            let answer = client.ask(&json!({"do": "metrics", "count": count}))?;
            ours.extend(answer["p50_ms"].as_f64());
            let number = |name: &str| answer[name].as_u64().unwrap_or_default();
            told = format!("{} series, {} KiB", whole(number("series")), whole(number("bytes") / 1024));
            bar.inc(1);
        }
        bar.finish_and_clear();
        drop(client);
        server.stop()?;
        fleet_files::remove(&fleet)?;
        lines.push(Line {
            row: "metrics",
            work: format!("/metrics of {} hosts ({told})", whole(hosts as u64)),
            unit: "ms",
            ours,
            reference: Reference::Nothing,
            goal: Goal::AtMost(100.0),
        });
    }
    Ok(lines)
}

/// A fleet whose hosts all have the same past.
fn make(bench: &Bench, hosts: usize) -> Outcome<std::path::PathBuf> {
    let bar = bench.bar(hosts, "writing history");
    let fleet = bench.new_dir(&format!("metrics-{FORM}-{hosts}"))?;
    fleet_files::make_fleet(&fleet, hosts)?;
    restic_manager::atomic_file::create_private_dir(&fleet.join("state")).map_err(|error| error.to_string())?;
    let journal = |index: usize| fleet.join("state/hosts").join(host_name(index)).join("journal");
    history_files::write_of(&journal(0), EVENTS, &["system", "postgres"])?;
    for index in 1..hosts {
        fleet_files::copy(&journal(0), &journal(index))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(fleet)
}
