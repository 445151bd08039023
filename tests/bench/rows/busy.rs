//! How long other requests take while all polls are parked, against the same server with the same hosts and no poll: a mix
//! of health checks, hosts, jobs, and events of other hosts.

use serde_json::json;

use super::park;
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let mix = json!({"do": "mix", "seconds": bench.size(1.0, 6.0), "at_once": 8});
    let bar = bench.bar(bench.runs, "runs");
    let (mut parked, mut idle, mut parked_p50, mut idle_p50) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let server = fleet.start(false)?;
        let mut others = fleet.others(&server)?;
        let mut agents = fleet.agents(&server)?;
        crate::processes::settle(server.id())?;
        let without = others.ask(&mix)?;
        park(&mut agents, &server)?;
        let with = others.ask(&mix)?;
        for (runs, answer, key) in [
            (&mut parked, &with, "p99_ms"),
            (&mut idle, &without, "p99_ms"),
            (&mut parked_p50, &with, "p50_ms"),
            (&mut idle_p50, &without, "p50_ms"),
        ] {
            runs.extend(answer[key].as_f64());
        }
        drop(agents);
        drop(others);
        server.stop()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let line = |what: &str, ours, reference, goal| Line {
        row: "busy",
        work: format!("other requests, {what}, {} parked", fleet.agents),
        unit: "ms",
        ours,
        reference: Reference::Runs("none parked".to_owned(), reference),
        goal,
    };
    Ok(vec![line("p99", parked, idle, Goal::RatioAtMost(2.0)), line("p50", parked_p50, idle_p50, Goal::None)])
}
