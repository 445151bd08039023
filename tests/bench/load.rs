//! What the load generator can be told to do with its agents, and what it measures while doing it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::agents::{Agents, Happening, host_name};
use crate::http::{Connection, request};
use crate::table::percentile;

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Load {
    Enroll {
        at_once: usize,
    },
    Hello {
        at_once: usize,
    },
    Park {
        at_once: usize,
        greet: bool,
    },
    Close,
    /// Commands to random agents, one after the other, until each holds its answer.
    Wake {
        count: usize,
    },
    /// Writes a file of the configuration, and waits until so many agents have new schedules.
    Edit {
        path: PathBuf,
        text: String,
        reaches: usize,
    },
    /// Single events (or batches) of all agents' hosts.
    Events {
        seconds: f64,
        posters: usize,
        batch: usize,
    },
    /// Other requests than polls, as operators and agents make them.
    Mix {
        seconds: f64,
        at_once: usize,
    },
    /// `GET /metrics`, again and again.
    Metrics {
        count: usize,
    },
    /// A host's last jobs, again and again.
    Jobs {
        host: String,
        limit: usize,
        count: usize,
    },
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) async fn run(agents: &mut Agents, load: Load) -> Outcome<Value> {
    let began = Instant::now();
    match load {
        Load::Enroll { at_once } => agents.enroll(at_once).await?,
        Load::Hello { at_once } => agents.hello(at_once).await?,
        Load::Park { at_once, greet } => agents.park(at_once, greet).await?,
        Load::Close => agents.close().await,
        Load::Wake { count } => return wake(agents, count).await,
        Load::Edit { path, text, reaches } => return edit(agents, path, text, reaches).await,
        Load::Events { seconds, posters, batch } => {
            return events(agents, Duration::from_secs_f64(seconds), posters, batch).await;
        }
        Load::Mix { seconds, at_once } => return mix(agents, Duration::from_secs_f64(seconds), at_once).await,
        Load::Metrics { count } => return metrics(agents, count).await,
        Load::Jobs { host, limit, count } => return jobs(agents, &host, limit, count).await,
    }
    Ok(json!({"seconds": began.elapsed().as_secs_f64(), "agents": agents.all.len()}))
}

/// A cheap sequence of numbers without pattern.
pub(crate) fn scattered(number: usize, below: usize) -> usize {
    let mut x = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    usize::try_from(x % below.max(1) as u64).unwrap_or_default()
}

async fn wake(agents: &mut Agents, count: usize) -> Outcome<Value> {
    let mut operator = agents.target.connect().await.map_err(|error| error.to_string())?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let index = agents.all[scattered(number, agents.all.len())].index;
        let path = format!("/v1/hosts/{}/jobs", host_name(index));
        // A job that needs no lease: one that needs it waits for two more lines to be durable, the lease's and the dispatch's.
        let bytes = request("POST", &path, &agents.admin, r#"{"kind":"unlock"}"#);
        let began = Instant::now();
        operator.send(&bytes).await.map_err(|error| error.to_string())?;
        let at = loop {
            match agents.next().await? {
                Happening::Command(woken, at, _) if woken == index => break at,
                _ => {}
            }
        };
        times.push(milliseconds(at - began));
        let answer = operator.answer().await.map_err(|error| error.to_string())?;
        if answer.status != 201 {
            return Err(format!("a job got {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        // Its events are posted and it is parked again before the next one.
        while !matches!(agents.next().await?, Happening::Parked) {}
    }
    Ok(json!({"p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99)}))
}

async fn edit(agents: &mut Agents, path: PathBuf, text: String, reaches: usize) -> Outcome<Value> {
    let began = Instant::now();
    tokio::fs::write(&path, text).await.map_err(|error| format!("{}: {error}", path.display()))?;
    let mut times = Vec::with_capacity(reaches);
    let mut parked = 0;
    while times.len() < reaches || parked < reaches {
        match agents.next().await? {
            Happening::Schedules(at) => times.push(milliseconds(at - began)),
            Happening::Parked => parked += 1,
            _ => {}
        }
    }
    let (first, last) = (percentile(&times, 0.0), percentile(&times, 1.0));
    Ok(json!({"first_ms": first, "last_ms": last, "parked_again_ms": milliseconds(began.elapsed())}))
}

/// An event as agents send them now and then, which changes no job.
fn statistics(number: u64) -> (&'static str, Value) {
    let payload = json!({
        "size_bytes": 734_003_200 + number, "snapshot_count": 42, "dedup_ratio": 1.73, "lock_state": "unlocked",
        "last_check_at": "2026-11-22T05:00:00Z", "last_check_status": "succeeded",
    });
    ("repo.stats", payload)
}

async fn events(agents: &Agents, time: Duration, posters: usize, batch: usize) -> Outcome<Value> {
    let mut tasks = JoinSet::new();
    for poster in 0..posters {
        let own: Vec<_> = agents.all.iter().skip(poster).step_by(posters).cloned().collect();
        let target = agents.target.clone();
        tasks.spawn(async move {
            let mut connection = target.connect().await.map_err(|error| error.to_string())?;
            let began = Instant::now();
            let mut sent = 0u64;
            while began.elapsed() < time && !own.is_empty() {
                for agent in &own {
                    let events: Vec<_> = (0..batch as u64).map(|number| statistics(sent + number)).collect();
                    agent.post(&mut connection, &events).await?;
                    sent += batch as u64;
                }
            }
            Ok::<_, String>(sent)
        });
    }
    let began = Instant::now();
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended.map_err(|error| error.to_string())??;
    }
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    Ok(json!({"per_second": sent as f64 / began.elapsed().as_secs_f64(), "events": sent}))
}

/// One of the other requests; `turn` chooses.
async fn other(agents: &Agents, connection: &mut Connection, turn: usize) -> Outcome<()> {
    let agent = &agents.all[scattered(turn, agents.all.len())];
    let path = match turn % 4 {
        0 => "/healthz".to_owned(),
        1 => format!("/v1/hosts/{}", agent.host),
        2 => format!("/v1/hosts/{}/jobs?limit=20", agent.host),
        _ => return agent.post(connection, &[statistics(turn as u64)]).await,
    };
    connection.ask_json(&request("GET", &path, &agents.admin, "")).await.map(drop)
}

async fn mix(agents: &mut Agents, time: Duration, at_once: usize) -> Outcome<Value> {
    // The tasks share agents by turns that never meet: each client has hosts of its own.
    let shares = at_once.max(1);
    let mut tasks = JoinSet::new();
    for client in 0..shares {
        let own = agents.all.iter().skip(client).step_by(shares).cloned().collect();
        let part = agents.part(own);
        tasks.spawn(async move {
            let mut connection = part.target.connect().await.map_err(|error| error.to_string())?;
            let (began, mut times) = (Instant::now(), Vec::new());
            let mut turn = client;
            while began.elapsed() < time {
                let asked = Instant::now();
                other(&part, &mut connection, turn).await?;
                times.push(milliseconds(asked.elapsed()));
                turn += 1;
                // Not a flood: what is measured is a server that is there for many, not one at its limit.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok::<_, String>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        times.extend(ended.map_err(|error| error.to_string())??);
    }
    Ok(json!({"p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99), "requests": times.len()}))
}

async fn metrics(agents: &Agents, count: usize) -> Outcome<Value> {
    let mut connection = agents.target.connect().await.map_err(|error| error.to_string())?;
    let bytes = request("GET", "/metrics", &agents.admin, "");
    let (mut times, mut series, mut size) = (Vec::with_capacity(count), 0, 0);
    for number in 0..count + 2 {
        let asked = Instant::now();
        let answer = connection.ask(&bytes).await.map_err(|error| error.to_string())?;
        let time = milliseconds(asked.elapsed());
        // The first ones warm up.
        if number >= 2 {
            times.push(time);
        }
        if answer.status != 200 {
            return Err(format!("/metrics got {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        size = answer.body.len();
        series =
            answer.body.split(|byte| *byte == b'\n').filter(|line| line.first().is_some_and(|b| *b != b'#')).count();
    }
    Ok(json!({"p50_ms": percentile(&times, 0.5), "series": series, "bytes": size}))
}

async fn jobs(agents: &Agents, host: &str, limit: usize, count: usize) -> Outcome<Value> {
    let mut connection = agents.target.connect().await.map_err(|error| error.to_string())?;
    let bytes = request("GET", &format!("/v1/hosts/{host}/jobs?limit={limit}"), &agents.admin, "");
    let mut times = Vec::with_capacity(count);
    for number in 0..count + 5 {
        let asked = Instant::now();
        let answer = connection.ask(&bytes).await.map_err(|error| error.to_string())?;
        let time = milliseconds(asked.elapsed());
        // The first ones warm up.
        if number >= 5 {
            times.push(time);
        } else if answer.json()?["jobs"].as_array().map(Vec::len) != Some(limit) {
            return Err(format!("{host} has not {limit} jobs: {}", String::from_utf8_lossy(&answer.body)));
        }
    }
    Ok(json!({"p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99)}))
}

/// Reads commands on stdin, one a line, and answers each on stdout, until stdin ends.
pub(crate) async fn serve_commands(mut agents: Agents) -> Outcome<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    println!("{}", json!({"ready": true}));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let answer = match serde_json::from_str::<Load>(&line) {
            Ok(load) => run(&mut agents, load).await,
            Err(error) => Err(format!("{line}: {error}")),
        };
        println!("{}", answer.unwrap_or_else(|error| json!({"error": error})));
    }
    Ok(())
}

impl Agents {
    /// Some of the agents, with the same target.
    fn part(&self, all: Vec<Arc<crate::agents::Agent>>) -> Self {
        let mut part = Self::new(self.target.clone(), &self.admin, 0, 0, "");
        part.all = all;
        part
    }
}
