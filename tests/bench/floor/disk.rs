//! The bare disk: appends made durable, and the configuration's files read.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::table::percentile;

/// As long as a journal line of the benchmark's event.
const LINE: usize = 380;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn line() -> Vec<u8> {
    let mut line = vec![b'x'; LINE - 1];
    line.push(b'\n');
    line
}

/// Opens the file, appends a line, and makes it durable.
pub(crate) fn append(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(&line())?;
    file.sync_data()
}

/// `threads` append one line to one file after the other, each durable before the next; so many files in all. Durable lines per second.
pub(crate) fn parallel(dir: &Path, files: usize, threads: usize, time: Duration) -> Outcome<f64> {
    let began = Instant::now();
    let one = |thread: usize| -> Outcome<u64> {
        let line = line();
        let names = (thread..files).step_by(threads);
        let open = |number: usize| File::options().create(true).append(true).open(dir.join(format!("{number}.jsonl")));
        let mut own: Vec<File> = names.map(|number| open(number).map_err(text)).collect::<Outcome<_>>()?;
        let mut done = 0;
        while began.elapsed() < time {
            for file in &mut own {
                file.write_all(&line).map_err(text)?;
                file.sync_data().map_err(text)?;
                done += 1;
                if began.elapsed() >= time {
                    break;
                }
            }
        }
        Ok(done)
    };
    let sum = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
            .sum::<Outcome<u64>>()
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    Ok(sum as f64 / began.elapsed().as_secs_f64())
}

/// Makes so many files of one line, as hosts' journals are there before anything is measured.
pub(crate) fn make_files(dir: &Path, files: usize) -> Outcome<()> {
    for number in 0..files {
        fs::write(dir.join(format!("{number}.jsonl")), line()).map_err(text)?;
    }
    // Any sync of the file system's journal brings the others' names along.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(text)
}

/// One append and its fdatasync at a time, on files that `make_files` made: the median in milliseconds.
pub(crate) fn single(dir: &Path, files: usize, count: usize) -> Outcome<f64> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let path = dir.join(format!("{}.jsonl", crate::load::scattered(number, files)));
        let began = Instant::now();
        append(&path).map_err(text)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(percentile(&times, 0.5))
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArguments {
    /// The configuration directory
    directory: PathBuf,
    /// Read and parse only, as the floor does
    #[arg(long)]
    bare: bool,
}

/// Loads a configuration once: with the server's own code, or only reading every file and parsing it.
pub(crate) fn load(arguments: &LoadArguments) -> Outcome<Value> {
    let began = Instant::now();
    let hosts = if arguments.bare {
        let mut values = Vec::new();
        for sub in ["hosts", "groups", "repositories"] {
            for entry in fs::read_dir(arguments.directory.join(sub)).map_err(text)? {
                let bytes = fs::read_to_string(entry.map_err(text)?.path()).map_err(text)?;
                values.push(toml::from_str::<toml::Table>(&bytes).map_err(text)?);
            }
        }
        values.len()
    } else {
        let (fleet, problems) = restic_manager::server::fleet::read_tree::load_directory(&arguments.directory);
        if restic_manager::server::fleet::load::has_errors(&problems) {
            return Err(format!("the configuration has errors: {}", problems[0]));
        }
        fleet.hosts.len()
    };
    Ok(json!({"seconds": began.elapsed().as_secs_f64(), "files": hosts}))
}
