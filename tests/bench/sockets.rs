//! Clients without a protocol, for the floor programs: they park requests, have them answered, and greet.

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::Outcome;
use crate::http::{Target, request};
use crate::load::scattered;
use crate::table::percentile;

/// As long as a poll's path and credential are.
const FILLING: &str = "instance=00000000-0000-4000-8000-000000000000&wait=300&after=00000000-0000-4000-8000-000000000000.12345.0123abcd&schedule_version=1&schedule_hash=0123456789abcdef0123456789abcdef&config_version=1&config_hash=0123456789abcdef0123456789abcdef";
const TOKEN: &str = "rma_0000000000000000000000000000000000000000000";

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Play {
    /// So many connections, each with a request at PATH/N that waits.
    Park {
        path: String,
        count: usize,
        at_once: usize,
    },
    /// POSTs of BODY to PATH/N until the client parked there holds its answer, one after the other.
    Wake {
        path: String,
        body: String,
        count: usize,
    },
    /// So many clients connect and get an answer to a first request.
    Greet {
        count: usize,
        at_once: usize,
    },
    /// POSTs of an event's size to so many numbers, each answered before its poster's next.
    Flood {
        posters: usize,
        numbers: usize,
        seconds: f64,
    },
    Close,
}

pub(crate) struct Sockets {
    target: Target,
    parked: Vec<JoinHandle<()>>,
    told: mpsc::UnboundedSender<(usize, Option<Instant>)>,
    heard: mpsc::UnboundedReceiver<(usize, Option<Instant>)>,
}

impl Sockets {
    pub(crate) fn new(target: Target) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self { target, parked: Vec::new(), told, heard }
    }

    async fn park(&mut self, path: &str, count: usize, at_once: usize) -> Outcome<()> {
        let permits = Arc::new(Semaphore::new(at_once));
        for number in 0..count {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(|error| error.to_string())?;
            let (target, told) = (self.target.clone(), self.told.clone());
            let bytes = request("GET", &format!("{path}/{number}?{FILLING}"), TOKEN, "");
            self.parked.push(tokio::spawn(async move {
                let Ok(mut connection) = target.connect().await else { return };
                drop(permit);
                while connection.send(&bytes).await.is_ok() {
                    let _ = told.send((number, None));
                    if connection.answer().await.is_err() {
                        return;
                    }
                    let _ = told.send((number, Some(Instant::now())));
                }
            }));
        }
        let mut parked = 0;
        while parked < count {
            self.next().await?;
            parked += 1;
        }
        Ok(())
    }

    async fn next(&mut self) -> Outcome<(usize, Option<Instant>)> {
        let patience = std::time::Duration::from_secs(60);
        let heard = tokio::time::timeout(patience, self.heard.recv()).await;
        heard.ok().flatten().ok_or_else(|| "a floor program did not answer for 60 s".to_owned())
    }

    async fn wake(&mut self, path: &str, body: &str, count: usize) -> Outcome<Value> {
        let mut poster = self.target.connect().await.map_err(|error| error.to_string())?;
        let mut times = Vec::with_capacity(count);
        for turn in 0..count {
            let number = scattered(turn, self.parked.len());
            let began = Instant::now();
            poster.send(&request("POST", &format!("{path}/{number}"), TOKEN, body)).await.map_err(|e| e.to_string())?;
            let at = loop {
                if let (woken, Some(at)) = self.next().await?
                    && woken == number
                {
                    break at;
                }
            };
            times.push((at - began).as_secs_f64() * 1000.0);
            poster.answer().await.map_err(|error| error.to_string())?;
            while self.next().await?.1.is_some() {}
        }
        Ok(json!({"p50_ms": percentile(&times, 0.5), "p99_ms": percentile(&times, 0.99)}))
    }

    async fn greet(&mut self, count: usize, at_once: usize) -> Outcome<()> {
        let permits = Arc::new(Semaphore::new(at_once));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(|error| error.to_string())?;
            let target = self.target.clone();
            tasks.spawn(async move {
                let _permit = permit;
                let mut connection = target.connect().await?;
                connection.ask(&request("POST", &format!("/greet/{number}"), TOKEN, FILLING)).await?;
                Ok::<_, std::io::Error>(connection)
            });
        }
        // All stay open, as agents' connections do.
        let mut open = Vec::with_capacity(count);
        while let Some(ended) = tasks.join_next().await {
            open.push(ended.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    async fn flood(&self, posters: usize, numbers: usize, seconds: f64) -> Outcome<Value> {
        let time = std::time::Duration::from_secs_f64(seconds);
        let mut tasks = JoinSet::new();
        for poster in 0..posters {
            let target = self.target.clone();
            tasks.spawn(async move {
                let mut connection = target.connect().await?;
                let (began, mut sent, mut number) = (Instant::now(), 0u64, poster);
                while began.elapsed() < time {
                    connection.ask(&request("POST", &format!("/greet/{number}?{FILLING}"), TOKEN, FILLING)).await?;
                    sent += 1;
                    number = if number + posters < numbers { number + posters } else { poster };
                }
                Ok::<_, std::io::Error>(sent)
            });
        }
        let (began, mut sent) = (Instant::now(), 0);
        while let Some(ended) = tasks.join_next().await {
            sent += ended.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        Ok(json!({"per_second": sent as f64 / began.elapsed().as_secs_f64()}))
    }

    async fn play(&mut self, play: Play) -> Outcome<Value> {
        let began = Instant::now();
        match play {
            Play::Park { path, count, at_once } => self.park(&path, count, at_once).await?,
            Play::Wake { path, body, count } => return self.wake(&path, &body, count).await,
            Play::Greet { count, at_once } => self.greet(count, at_once).await?,
            Play::Flood { posters, numbers, seconds } => return self.flood(posters, numbers, seconds).await,
            Play::Close => {
                for task in self.parked.drain(..) {
                    task.abort();
                    let _ = task.await;
                }
            }
        }
        Ok(json!({"seconds": began.elapsed().as_secs_f64()}))
    }
}

/// Reads commands on stdin, one a line, and answers each on stdout, until stdin ends.
pub(crate) async fn serve_commands(mut sockets: Sockets) -> Outcome<()> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    println!("{}", json!({"ready": true}));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let answer = match serde_json::from_str::<Play>(&line) {
            Ok(play) => sockets.play(play).await,
            Err(error) => Err(format!("{line}: {error}")),
        };
        println!("{}", answer.unwrap_or_else(|error| json!({"error": error})));
    }
    Ok(())
}
