//! All agents back after a restart, over TLS with full handshakes: each connects, says hello and parks its poll. The floor
//! accepts the same clients with rustls and answers each one request.

use serde_json::json;

use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome};

/// Handshakes at once; the rest of the clients wait for their turn, here and there.
const AT_ONCE: usize = 512;

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let mut server = fleet.start(true)?;
    // Versions and acknowledgements are from before the restart.
    let mut agents = fleet.agents(&server)?;
    let bar = bench.bar(bench.runs, "runs");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        drop(agents);
        server.stop()?;
        server = fleet.start(true)?;
        agents = fleet.worker(&server, 0, fleet.agents)?;
        // Fails when one of them is lost.
        ours.push(agents.figure(&json!({"do": "park", "at_once": AT_ONCE, "greet": true}), "seconds")?);
        // They are parked: some of them get a command.
        agents.ask(&json!({"do": "wake", "count": 10}))?;
        let (_floor, mut clients) = bench.floor("raw", true)?;
        bare.push(clients.figure(&json!({"do": "greet", "count": fleet.agents, "at_once": AT_ONCE}), "seconds")?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(agents);
    server.stop()?;
    Ok(vec![Line {
        row: "back",
        work: format!("{} TLS agents back after a restart, none lost", fleet.agents),
        unit: "s",
        ours,
        reference: Reference::Runs("bare rustls".to_owned(), bare),
        goal: Goal::RatioAtMost(1.2),
    }])
}
