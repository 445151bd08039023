//! The benchmarks: what the server and the agent take, beside what the bare machine and others take in the same run.
//! README.md "Benchmarks" says how to run them. Only ratios within one run mean anything.
//!
//! This program starts itself again for its parts (load generator, floor programs): descriptors are limited per process, and
//! one part's memory must be told from another's. Everything is on loopback, in a scratch directory on a disk, bounded in
//! count and time, and gone at the end, after an interrupt too.
#![allow(clippy::disallowed_methods, reason = "benchmarks set their files up by hand, and start programs")]

mod agents;
mod fleet_files;
mod floor;
mod history_files;
mod http;
mod load;
mod processes;
mod rows;
mod sockets;
mod table;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;

use agents::Agents;
use http::Target;
use sockets::Sockets;

/// A figure, or what went wrong in words for whoever runs the benchmarks.
type Outcome<T> = Result<T, String>;

#[derive(Debug, Parser)]
#[command(
    name = "fleet",
    about = "Benchmarks: ours, the reference of the same run, the ratio, the goal",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// Which rows to measure; none: all
    rows: Vec<String>,
    /// Simulated agents
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// Runs of each row; the medians are shown
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// 300 agents, one run, little of everything, no packages: shows that the benchmarks work, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Where scratch and kept data are, on a disk [default: target/bench-data]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave the scratch directory
    #[arg(long)]
    keep: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Only the load generator, against a server of yours on this machine: enrolls hosts h00000, h00001 ..., which its
    /// configuration must have, parks them, and runs whatever commands they get
    Agents(AgentsArguments),
    #[command(hide = true)]
    Sockets { port: u16, authority: Option<PathBuf> },
    #[command(hide = true)]
    Park(floor::park::ParkArguments),
    #[command(hide = true)]
    LoadOnce(floor::disk::LoadArguments),
}

#[derive(Debug, clap::Args)]
struct AgentsArguments {
    /// http://127.0.0.1:PORT, or https:// with --ca-file
    #[arg(long)]
    url: String,
    /// How many
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// The number of the first host
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// A file with an admin's token, such as state/admin-token
    #[arg(long)]
    token_file: PathBuf,
    /// The authority of the server's certificate
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// For so long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Credentials follow from this text: with the same one hosts that are enrolled need no new credential
    #[arg(long, default_value = "bench")]
    seed: String,
    /// The hosts are enrolled with this seed
    #[arg(long)]
    enrolled: bool,
    /// Do what stdin says, one JSON object a line
    #[arg(long, hide = true)]
    commands: bool,
}

/// What every row needs.
struct Bench {
    agents: usize,
    runs: usize,
    quick: bool,
    /// Gone at the end.
    scratch: PathBuf,
    /// Kept between runs.
    data: PathBuf,
    fleet: std::cell::OnceCell<rows::Fleet>,
}

/// What an interrupt removes.
static SCRATCH: Mutex<Option<PathBuf>> = Mutex::new(None);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_descriptor_limit();
    let outcome = match &arguments.part {
        None => benchmarks(&arguments),
        Some(part) => run_part(part).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Who started a part reads its stdout.
            if arguments.part.is_some() {
                println!("{}", serde_json::json!({"error": error}));
            }
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(not(unix))]
fn raise_descriptor_limit() {}

fn run_part(part: &Part) -> Outcome<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match part {
            Part::Agents(arguments) => run_agents(arguments).await,
            Part::Sockets { port, authority } => {
                sockets::serve_commands(Sockets::new(Target::new(*port, authority.as_deref())?)).await
            }
            Part::Park(arguments) => floor::park::serve(arguments).await,
            Part::LoadOnce(arguments) => {
                println!("{}", floor::disk::load(arguments)?);
                Ok(())
            }
        }
    })
}

async fn run_agents(arguments: &AgentsArguments) -> Outcome<()> {
    let url = arguments.url.trim_end_matches('/');
    let port = ["http://127.0.0.1:", "http://localhost:", "https://127.0.0.1:", "https://localhost:"]
        .iter()
        .find_map(|start| url.strip_prefix(start)?.parse().ok());
    let port = port.ok_or_else(|| format!("{url}: only servers on this machine are loaded: http://127.0.0.1:PORT"))?;
    if url.starts_with("https") != arguments.ca_file.is_some() {
        return Err("https:// goes with --ca-file, and only with it".to_owned());
    }
    let token = std::fs::read_to_string(&arguments.token_file);
    let token = token.map_err(|error| format!("{}: {error}", arguments.token_file.display()))?;
    let target = Target::new(port, arguments.ca_file.as_deref())?;
    let mut agents = Agents::new(target, token.trim(), arguments.first, arguments.count, &arguments.seed);
    if arguments.commands {
        return load::serve_commands(agents).await;
    }
    if !arguments.enrolled {
        agents.enroll(64).await?;
    }
    agents.hello(64).await?;
    agents.park(64, false).await?;
    eprintln!("{} agents are parked for {} s", arguments.count, arguments.seconds);
    let (mut commands, mut schedules) = (0u64, 0u64);
    let end = tokio::time::sleep(std::time::Duration::from_secs(arguments.seconds));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            happening = agents.next() => match happening? {
                agents::Happening::Command(_, _, job) => {
                    commands += 1;
                    eprintln!("ran job {job}");
                }
                agents::Happening::Schedules(..) => schedules += 1,
                _ => {}
            },
        }
    }
    agents.close().await;
    println!("{}", serde_json::json!({"agents": arguments.count, "commands": commands, "schedule_sets": schedules}));
    Ok(())
}

/// Everything that runs and the scratch directory end at an interrupt.
fn clean_up_when_interrupted() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        if runtime.block_on(interrupted()).is_ok() {
            processes::kill_all();
            let scratch = SCRATCH.lock().ok().and_then(|mut scratch| scratch.take());
            // What was just killed may still have been writing.
            let remove = |scratch: &PathBuf| (0..20).any(|_| fleet_files::remove(scratch).is_ok());
            if let Some(left) = scratch.filter(|scratch| !remove(scratch)) {
                eprintln!("remove {} by hand", left.display());
            }
            eprintln!("interrupted");
            std::process::exit(130);
        }
    });
    Ok(())
}

#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn benchmarks(arguments: &Arguments) -> Outcome<bool> {
    if !Path::new("/proc/self/status").exists() {
        return Err("the benchmarks read memory and CPU from /proc, which this system has not".to_owned());
    }
    let rows = rows::chosen(&arguments.rows)?;
    let default = || Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map(|target| target.join("bench-data"));
    let dir = arguments.dir.clone().or_else(default).ok_or("there is no target directory: name one with --dir")?;
    fleet_files::make_dir(&dir)?;
    fleet_files::must_be_a_disk(&dir)?;
    fleet_files::remove_what_others_left(&dir)?;
    let scratch = dir.join(format!("scratch-{}", std::process::id()));
    fleet_files::make_dir(&scratch)?;
    if let Ok(mut kept) = SCRATCH.lock() {
        *kept = (!arguments.keep).then(|| scratch.clone());
    }
    clean_up_when_interrupted()?;
    let bench = Bench {
        agents: if arguments.quick { 300 } else { arguments.agents },
        runs: if arguments.quick { 1 } else { arguments.runs.max(1) },
        quick: arguments.quick,
        scratch: scratch.clone(),
        data: dir,
        fleet: std::cell::OnceCell::new(),
    };
    let outcome = measure(&bench, &rows, arguments);
    drop(bench);
    if arguments.keep {
        eprintln!("the scratch directory is {}", scratch.display());
    } else {
        fleet_files::remove(&scratch)?;
    }
    outcome
}

/// Measures every row. A row that fails is told, and the others go on; then the whole has failed.
fn measure(bench: &Bench, rows: &[rows::Row], arguments: &Arguments) -> Outcome<bool> {
    let (mut lines, mut failures) = (Vec::new(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        eprintln!("[{}/{}] {}: {}", number + 1, rows.len(), row.name, row.what);
        let began = std::time::Instant::now();
        match (row.measure)(bench) {
            Ok(found) => {
                if !arguments.json {
                    eprint!("{}", table::table(&found, std::io::stderr().is_terminal()));
                }
                lines.extend(found);
            }
            Err(error) => {
                eprintln!("{}: failed: {error}", row.name);
                failures.push(format!("{}: {error}", row.name));
            }
        }
        eprintln!("{} took {:.0} s\n", row.name, began.elapsed().as_secs_f64());
    }
    if arguments.json {
        let rows: Vec<_> = lines.iter().map(table::Line::json).collect();
        println!(
            "{}",
            serde_json::json!({
                "agents": bench.agents, "runs": bench.runs, "quick": bench.quick, "rows": rows, "failures": failures,
            })
        );
    } else {
        let colored = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        print!("{}", table::table(&lines, colored));
        println!(
            "{} agents, medians of {} runs; ours and reference in turns, on this machine",
            bench.agents, bench.runs
        );
        let missed = lines.iter().filter(|line| line.is_met() == Some(false)).count();
        let met = lines.iter().filter(|line| line.is_met() == Some(true)).count();
        println!("goals met: {met}, missed: {missed}");
        failures.iter().for_each(|failure| println!("failed: {failure}"));
    }
    Ok(failures.is_empty())
}
