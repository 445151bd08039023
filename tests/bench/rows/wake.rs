//! From the POST of a command until the agent whose poll was parked holds the whole answer. Ours is durable first; so the
//! floor is a bare wake and one append with its fdatasync, measured one after the other.

use serde_json::json;

use super::{nchan, park};
use crate::floor::disk;
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome};

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let fleet = bench.fleet()?;
    let count = bench.size(50, 1000);
    let bar = bench.bar(bench.runs, "runs");
    let (mut ours, mut slow, mut nginx) = (Vec::new(), Vec::new(), Ok(Vec::new()));
    let (mut raw, mut sync, mut inside) = (Vec::new(), Vec::new(), Vec::new());
    let bare = json!({"do": "wake", "path": "/wake", "body": "{\"kind\":\"init\"}", "count": count});
    let parked = json!({"do": "park", "path": "/park", "count": fleet.agents, "at_once": 64});
    for _ in 0..bench.runs {
        let server = fleet.start(false)?;
        let mut agents = fleet.agents(&server)?;
        park(&mut agents, &server)?;
        let answer = agents.ask(&json!({"do": "wake", "count": count}))?;
        ours.extend(answer["p50_ms"].as_f64());
        slow.extend(answer["p99_ms"].as_f64());
        drop(agents);
        server.stop()?;
        let (_floor, mut clients) = bench.floor("raw", false)?;
        clients.ask(&parked)?;
        raw.push(clients.figure(&bare, "p50_ms")?);
        drop(clients);
        let dir = bench.new_dir("sync")?;
        disk::make_files(&dir, fleet.agents)?;
        let (_floor, mut clients) = bench.floor_with("raw", false, Some(&dir))?;
        clients.ask(&parked)?;
        inside.push(clients.figure(&bare, "p50_ms")?);
        drop(clients);
        sync.push(disk::single(&dir, fleet.agents, count)?);
        if let Ok(runs) = &mut nginx {
            match nchan::Nchan::start(bench, false) {
                Ok(nchan) => {
                    let mut clients = bench.sockets(nchan.port, false)?;
                    clients.ask(&parked)?;
                    runs.push(clients.figure(&bare, "p50_ms")?);
                }
                Err(missing) => nginx = Err(missing),
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let both = raw.iter().zip(&sync).map(|(raw, sync)| raw + sync).collect();
    let work = format!("wake, p50, {} parked, durable first", fleet.agents);
    let line =
        |reference, goal| Line { row: "wake", work: work.clone(), unit: "ms", ours: ours.clone(), reference, goal };
    let p99 = Line { work: "wake, p99".to_owned(), ours: slow, ..line(Reference::Nothing, Goal::None) };
    Ok(vec![
        line(Reference::Runs("raw wake + fdatasync".to_owned(), both), Goal::RatioAtMost(1.3)),
        line(Reference::Runs("raw wake".to_owned(), raw), Goal::None),
        line(Reference::Runs("one fdatasync".to_owned(), sync), Goal::None),
        line(Reference::Runs("bare wake that syncs in between".to_owned(), inside), Goal::None),
        line(nchan::reference("nchan (not durable)", nginx), Goal::None),
        p99,
    ])
}
