//! From the server's start to its first good /readyz, with many hosts that have a history; and with ten times the history.
//! All hosts have the same past, copied. The first start after making it is not counted: it gives each host its first version.

use std::path::{Path, PathBuf};

use crate::agents::host_name;
use crate::history_files::{self, FORM};
use crate::processes::Server;
use crate::table::{Goal, Line, Reference, whole};
use crate::{Bench, Outcome, fleet_files};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let hosts = bench.size(30, 1000);
    let (short, long) = bench.size((100, 1000), (1000, 10_000));
    let (few, many) = (make(bench, hosts, short)?, make(bench, hosts, long)?);
    let bar = bench.bar(bench.runs, "runs");
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        for (fleet, runs) in [(&few, &mut with_few), (&many, &mut with_many)] {
            let server = Server::start(fleet, None)?;
            runs.push(server.ready.as_secs_f64());
            server.stop()?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let line = |events: u64, ours: Vec<f64>, reference, goal| Line {
        row: "start",
        work: format!("start-up, {} hosts x {} events", whole(hosts as u64), whole(events)),
        unit: "s",
        ours,
        reference,
        goal,
    };
    let tenth = Reference::Runs("with a tenth of the history".to_owned(), with_few.clone());
    Ok(vec![
        line(short, with_few, Reference::Nothing, Goal::AtMost(0.5)),
        line(long, with_many.clone(), Reference::Nothing, Goal::AtMost(0.5)),
        line(long, with_many, tenth, Goal::RatioAtMost(1.1)),
    ])
}

/// The fleet with so many events a host; kept between runs.
fn make(bench: &Bench, hosts: usize, events: u64) -> Outcome<PathBuf> {
    let fleet = bench.data.join(format!("start-{FORM}-{hosts}-{events}"));
    if !fleet.exists() {
        let bar = bench.bar(hosts, "writing history");
        let new = bench.new_dir("start")?;
        fleet_files::make_fleet(&new, hosts)?;
        restic_manager::atomic_file::create_private_dir(&new.join("state")).map_err(|error| error.to_string())?;
        let journal = |index: usize| -> PathBuf { new.join("state/hosts").join(host_name(index)).join("journal") };
        history_files::write(&journal(0), events)?;
        for index in 1..hosts {
            fleet_files::copy(&journal(0), &journal(index))?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Server::start(Path::new(&new), None)?.stop()?;
        std::fs::rename(&new, &fleet).map_err(|error| format!("{}: {error}", fleet.display()))?;
    }
    Ok(fleet)
}
