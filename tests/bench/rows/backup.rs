//! The same backup by restic alone and through server and agent: wall time and CPU, each time into a new repository.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::idle::{ask, start_agent};
use super::shown;
use crate::processes::{Process, Server, cpu_seconds};
use crate::table::{Goal, Line, Reference};
use crate::{Bench, Outcome, fleet_files};

struct Cost {
    wall: f64,
    cpu: f64,
}

pub(super) fn measure(bench: &Bench) -> Outcome<Vec<Line>> {
    let work = |what: &str| format!("backup through the agent, {what}");
    let line = |what: &str, ours, reference| Line {
        row: "backup",
        work: work(what),
        unit: "s",
        ours,
        reference,
        goal: Goal::RatioAtMost(1.03),
    };
    if Command::new("restic").arg("version").output().is_err() {
        let missing = Reference::Missing("restic is not installed: apt-get install restic".to_owned());
        return Ok(vec![line("wall", Vec::new(), missing)]);
    }
    let dir = bench.new_dir("backup")?;
    make_sources(&dir.join("data"), bench.size(200, 20_000), bench.size(8, 1024))?;
    fleet_files::make_fleet(&dir, 1)?;
    let repository = format!("url = {:?}\npassword = {{ file = \"../secrets/password\" }}\n", dir.join("repo"));
    fleet_files::write(&dir.join("config/repositories/main.toml"), &repository)?;
    let server = Server::start(&dir, None)?;
    let settings = format!("restic = \"restic\"\n[policy]\nkinds = [\"backup\", \"init\"]\nbackup_roots = [{dir:?}]\n");
    let agent = start_agent(&dir, &server, &settings)?;
    let bar = bench.bar(bench.runs, "runs");
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for run in bench.size(1, 0)..=bench.runs {
        let one = through_agent(&dir, &server, &agent)?;
        let other = restic_alone(&dir)?;
        // The first turn reads the files into memory for all that come after.
        if run > 0 {
            ours.push(one);
            alone.push(other);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(agent);
    server.stop()?;
    let runs = |costs: &[Cost], of: fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
    let reference = |of| Reference::Runs("restic alone".to_owned(), runs(&alone, of));
    Ok(vec![
        line("wall", runs(&ours, |cost| cost.wall), reference(|cost| cost.wall)),
        line("CPU", runs(&ours, |cost| cost.cpu), reference(|cost| cost.cpu)),
    ])
}

/// Small files, and large ones of so many MiB together, none of them like another.
fn make_sources(dir: &Path, files: usize, mebibytes: usize) -> Outcome<()> {
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = |length: usize| -> Vec<u8> {
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()
        };
        (0..length / 8).flat_map(|_| next()).collect()
    };
    for number in 0..files {
        let sub = dir.join(format!("small/{}", number / 200));
        if number % 200 == 0 {
            fleet_files::make_dir(&sub)?;
        }
        fs::write(sub.join(number.to_string()), bytes(2048)).map_err(|error| error.to_string())?;
    }
    fleet_files::make_dir(&dir.join("large"))?;
    for number in 0..mebibytes.div_ceil(64) {
        let size = 64.min(mebibytes - number * 64);
        fs::write(dir.join(format!("large/{number}")), bytes(size << 20)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn through_agent(dir: &Path, server: &Server, agent: &Process) -> Outcome<Cost> {
    fleet_files::remove(&dir.join("repo"))?;
    let run = |body: &str| -> Outcome<()> {
        let job = ask(dir, server, "POST", "/v1/hosts/h00000/jobs?wait=300", body)?;
        if job["status"] == "succeeded" { Ok(()) } else { Err(format!("the job did not succeed: {job}")) }
    };
    run(r#"{"kind":"init"}"#)?;
    // What the agent still does after the job before.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let used = || cpu_seconds(agent.id()).map(|(own, children)| own + children);
    let (began, before) = (Instant::now(), used()?);
    run(&json!({"kind": "backup", "options": {"paths": [dir.join("data")]}}).to_string())?;
    let wall = began.elapsed().as_secs_f64();
    Ok(Cost { wall, cpu: used()? - before })
}

fn restic_alone(dir: &Path) -> Outcome<Cost> {
    let repository = dir.join("repo-alone");
    fleet_files::remove(&repository)?;
    fleet_files::remove(&dir.join("cache"))?;
    let run = |arguments: &[&str]| -> Outcome<()> {
        let mut command = Command::new("restic");
        command.args(["-r", &shown(&repository)]).args(arguments);
        command.env("RESTIC_PASSWORD", fleet_files::PASSWORD).env("RESTIC_CACHE_DIR", dir.join("cache"));
        let output = command.output().map_err(|error| format!("restic: {error}"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    run(&["init"])?;
    let used = || cpu_seconds(std::process::id()).map(|(_, children)| children);
    let (began, before) = (Instant::now(), used()?);
    run(&["backup", "--json", &shown(&dir.join("data"))])?;
    Ok(Cost { wall: began.elapsed().as_secs_f64(), cpu: used()? - before })
}
