//! `restic-manager plan` as somebody runs it, on the whole fleet and on a copy of it in which one host differs: a change of one
//! host is found as such, beside what loading the fleet takes anyway.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::shown;
use crate::processes::SERVER;
use crate::table::{Goal, Line, Reference, whole};
use crate::{Bench, Outcome, fleet_files};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let old = fleet.dir.join("config");
    let copy = bench.new_dir("planned")?;
    fleet_files::copy(&old, &copy.join("config"))?;
    let text = fleet_files::host(59).replace("/var/backups/postgres", "/var/backups/planned");
    fleet_files::write(&fleet_files::host_file(&copy, crate::load::scattered(7, fleet.agents)), &text)?;
    let (old, new) = (shown(&old), shown(&copy.join("config")));
    let bar = bench.bar(bench.runs, "runs");
    let (mut ours, mut loading) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let start = Instant::now();
        let run = Command::new(SERVER).args(["plan", "--json", "--from", &old, &new]).output();
        ours.push(start.elapsed().as_secs_f64());
        let printed = run.map_err(|error| format!("plan: {error}"))?.stdout;
        let planned: Value = serde_json::from_slice(&printed).map_err(|error| format!("plan's answer: {error}"))?;
        if [&planned["added"], &planned["changed"], &planned["removed"]] != [&json!(0), &json!(1), &json!(0)] {
            return Err(format!("one host changes, and the plan says: {}", String::from_utf8_lossy(&printed)));
        }
        loading.extend(bench.part(&["load-once", &old])?["seconds"].as_f64());
        bar.inc(1);
    }
    bar.finish_and_clear();
    fleet_files::remove(&copy)?;
    Ok(vec![Line {
        row: "plan",
        work: format!("a plan of {} hosts of which one changes", whole((fleet.agents + fleet.others) as u64)),
        unit: "s",
        ours,
        reference: Reference::Runs("loading them once".to_owned(), loading),
        // Both sides are read; the second one is hardly more than that.
        goal: Goal::RatioAtMost(2.5),
    }])
}
