//! One edit of a group that all hosts are in, until every parked agent holds its new version, durable before. The quiet
//! moment that the server waits for after an edit (300 ms) is not counted.

use serde_json::json;

use super::park;
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome, fleet_files};

/// What the server waits for; `QUIET` in src/server/fleet_loop.rs.
pub(super) const QUIET_MS: f64 = 300.0;

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let server = fleet.start(false)?;
    let mut agents = fleet.agents(&server)?;
    park(&mut agents, &server)?;
    let bar = bench.bar(bench.runs, "edits");
    let path = fleet.dir.join("config/groups/linux.toml");
    let (mut last, mut first) = (Vec::new(), Vec::new());
    for run in 0..bench.runs {
        let text = fleet_files::group(run + 1);
        let answer = agents.ask(&json!({"do": "edit", "path": path, "text": text, "reaches": fleet.agents}))?;
        last.extend(answer["last_ms"].as_f64().map(|ms| (ms - QUIET_MS) / 1000.0));
        first.extend(answer["first_ms"].as_f64().map(|ms| (ms - QUIET_MS) / 1000.0));
        crate::processes::settle(server.id())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(agents);
    server.stop()?;
    let line = |what: &str, ours, goal| Line {
        row: "edit",
        work: format!("group edit at {} parked agents, {what}, debounce subtracted", fleet.agents),
        unit: "s",
        ours,
        reference: Reference::Nothing,
        goal,
    };
    Ok(vec![line("the last", last, Goal::AtMost(1.5)), line("the first", first, Goal::None)])
}
