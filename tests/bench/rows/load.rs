//! Loading the configuration in a new process, by the server's own code and by bare reading and parsing; and the change of
//! one host's file until its parked agent holds it, without the quiet moment that the server waits for.

use serde_json::json;

use super::edit::QUIET_MS;
use super::{park, shown};
use crate::table::{Goal, Line, Reference, whole};
use crate::{Bench, Outcome, fleet_files};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let config = shown(&fleet.dir.join("config"));
    let bar = bench.bar(bench.runs * 2, "runs");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        ours.extend(bench.part(&["load-once", &config])?["seconds"].as_f64());
        bare.extend(bench.part(&["load-once", &config, "--bare"])?["seconds"].as_f64());
        bar.inc(1);
    }
    let server = fleet.start(false)?;
    let mut agents = fleet.agents(&server)?;
    park(&mut agents, &server)?;
    let mut changes = Vec::new();
    for run in 0..bench.runs {
        let path = fleet_files::host_file(&fleet.dir, crate::load::scattered(run, fleet.agents));
        let text = fleet_files::host(run + 1);
        let reached = agents.figure(&json!({"do": "edit", "path": path, "text": text, "reaches": 1}), "last_ms")?;
        changes.push(reached - QUIET_MS);
        crate::processes::settle(server.id())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(agents);
    server.stop()?;
    let hosts = whole((fleet.agents + fleet.others) as u64);
    Ok(vec![
        Line {
            row: "load",
            work: format!("loading {hosts} host files"),
            unit: "s",
            ours,
            reference: Reference::Runs("reading and parsing them".to_owned(), bare),
            goal: Goal::RatioAtMost(2.0),
        },
        Line {
            row: "load",
            work: "one file's change at its parked agent, debounce subtracted".to_owned(),
            unit: "ms",
            ours: changes,
            reference: Reference::Nothing,
            goal: Goal::AtMost(100.0),
        },
    ])
}
