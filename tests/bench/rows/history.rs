//! The last 50 jobs of a host at the API, files warm, however long its history is.

use serde_json::json;

use super::sqlite;
use crate::agents::host_name;
use crate::history_files::{self, FORM};
use crate::processes::Server;
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome, fleet_files};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let sizes: [u64; 3] = bench.size([500, 1000, 2000], [10_000, 100_000, 1_000_000]);
    let fleet = bench.data.join(format!("history-{FORM}-{}", sizes[2]));
    make(bench, &fleet, sizes)?;
    let server = Server::start(&fleet, None)?;
    let mut client = super::worker(&fleet, &server, 0, 0)?;
    let queries = bench.size(20, 200);
    let bar = bench.bar(bench.runs, "runs");
    let mut ours = sizes.map(|_| Vec::new());
    let mut lite = Ok(Vec::new());
    let database = bench.data.join(format!("history-{FORM}-{}.sqlite", sizes[2]));
    for _ in 0..bench.runs {
        for (index, runs) in ours.iter_mut().enumerate() {
            let command = json!({"do": "jobs", "host": host_name(index), "limit": 50, "count": queries});
            runs.push(client.figure(&command, "p50_ms")?);
        }
        if let Ok(runs) = &mut lite {
            let arguments = ["history", &super::shown(&database), &sizes[2].to_string(), &queries.to_string()];
            match sqlite::run(bench, &arguments) {
                Ok(answer) => runs.extend(answer["p50_ms"].as_f64()),
                Err(missing) => lite = Err(missing),
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(client);
    server.stop()?;
    let [short, middle, long] = ours;
    let line = |size: usize, ours: &Vec<f64>, reference, goal| Line {
        row: "history",
        work: format!("last 50 jobs, {} events", crate::table::whole(sizes[size])),
        unit: "ms",
        ours: ours.clone(),
        reference,
        goal,
    };
    let shortest = || Reference::Runs(format!("with {} events", crate::table::whole(sizes[0])), short.clone());
    Ok(vec![
        line(0, &short, Reference::Nothing, Goal::AtMost(1.5)),
        line(1, &middle, Reference::Nothing, Goal::AtMost(1.5)),
        line(2, &long, super::nchan::reference("SQLite, indexed", lite), Goal::AtMost(1.5)),
        // Flat: not more than what the noise of such short times is.
        line(2, &long, shortest(), Goal::RatioAtMost(1.25)),
    ])
}

/// Three hosts with a short, a middling and a long history; kept between runs.
fn make(bench: &Bench, fleet: &std::path::Path, sizes: [u64; 3]) -> Outcome<()> {
    if fleet.exists() {
        return Ok(());
    }
    let bar = bench.bar(sizes.len(), "writing history");
    let new = bench.new_dir("history")?;
    fleet_files::make_fleet(&new, sizes.len())?;
    restic_manager::atomic_file::create_private_dir(&new.join("state")).map_err(|error| error.to_string())?;
    for (index, events) in sizes.into_iter().enumerate() {
        history_files::write(&new.join("state/hosts").join(host_name(index)).join("journal"), events)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    std::fs::rename(&new, fleet).map_err(|error| format!("{}: {error}", fleet.display()))
}
