//! Durable events per second: many posters, many hosts' journals. One event a request, each acknowledged before the poster's
//! next, as in the floor one line is synced before the thread's next; and in batches, as agents with a backlog send them.

use serde_json::json;

use super::sqlite;
use crate::floor::disk;
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome};

const BATCH: usize = 16;

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let seconds = bench.size(1.0, 5.0);
    let time = std::time::Duration::from_secs_f64(seconds / 2.0);
    let posters = bench.size(32, 256);
    let server = fleet.start(false)?;
    let mut others = fleet.others(&server)?;
    let bar = bench.bar(bench.runs, "runs");
    let (mut single, mut batched, mut parallel, mut lite) = (Vec::new(), Vec::new(), Vec::new(), Ok(Vec::new()));
    let (mut answers, mut durable) = (Vec::new(), Vec::new());
    let flood = json!({"do": "flood", "posters": posters, "numbers": fleet.others, "seconds": seconds / 2.0});
    for _ in 0..bench.runs {
        let mut post = |batch: usize| {
            let command = json!({"do": "events", "seconds": seconds, "posters": posters, "batch": batch});
            others.figure(&command, "per_second")
        };
        single.push(post(1)?);
        let dir = bench.new_dir("sync")?;
        disk::make_files(&dir, fleet.others)?;
        // How many threads are best depends on the disk.
        let mut best = 0.0f64;
        for threads in [8, 32, 128] {
            best = best.max(disk::parallel(&dir, fleet.others, threads, time)?);
        }
        parallel.push(best);
        if let Ok(runs) = &mut lite {
            match sqlite::run(bench, &["events", &super::shown(&dir.join("db")), &(seconds / 2.0).to_string()]) {
                Ok(answer) => runs.extend(answer["per_second"].as_f64()),
                Err(missing) => lite = Err(missing),
            }
        }
        for (sync, runs) in [(None, &mut answers), (Some(dir.as_path()), &mut durable)] {
            let (_floor, mut clients) = bench.floor_with("hyper", false, sync)?;
            runs.push(clients.figure(&flood, "per_second")?);
        }
        batched.push(post(BATCH)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    drop(others);
    server.stop()?;
    let work = format!("durable events/s, one a request, {posters} posters, {} hosts", fleet.others);
    let line =
        |reference, goal| Line { row: "events", work: work.clone(), unit: "/s", ours: single.clone(), reference, goal };
    let parallel = Reference::Runs("parallel fdatasync".to_owned(), parallel);
    let lite = super::nchan::reference("SQLite WAL FULL, one a transaction", lite);
    let many = Line {
        work: format!("durable events/s, {BATCH} a request"),
        ours: batched,
        ..line(parallel.clone(), Goal::None)
    };
    Ok(vec![
        line(parallel, Goal::RatioAtLeast(0.8)),
        line(lite, Goal::RatioAtLeast(7.0)),
        line(Reference::Runs("bare hyper, an append and its fdatasync each".to_owned(), durable), Goal::None),
        line(Reference::Runs("bare hyper that does nothing".to_owned(), answers), Goal::None),
        many,
    ])
}
