//! P11: a thousand sockets on which nothing more comes (nothing at all, half a head or handshake, half a body) stop neither other
//! agents nor new connections, with few descriptors, with TLS and without. The control: holders of a valid token are not held to the
//! strangers' share, and as many of their sockets as there are descriptors do stop it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use uuid::Uuid;

use crate::count;
use crate::harness::{Fleet, PASSWORD, Process, SERVER, eventually, text};
use crate::poster::{Connection, Poster, StopAtLast, ask};

const AGENTS: usize = 50;
/// The longest that the 99th of 100 jobs takes from its POST to its agent.
const P99: Duration = Duration::from_millis(250);

/// Sockets that each of the attack's four parts opens anew in a tenth of a second. It stalls; it is no flood.
const AT_ONCE: usize = 25;

/// A server with few descriptors, and agents that poll it.
struct Besieged {
    fleet: Fleet,
    agents: Vec<Poster>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// What was seen in a siege.
#[derive(Debug, Default)]
struct Outcome {
    jobs: usize,
    /// Jobs that could not be posted, each on a connection of its own, or did not reach their agent.
    lost: usize,
    /// Polls that had no answer.
    cut: usize,
    p99: Duration,
    longest: Duration,
    /// Sockets of the siege that the server closed, each of which was followed by another.
    closed: usize,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.lost == 0 && self.cut == 0 && self.p99 <= P99
    }
}

impl Besieged {
    fn started(descriptors: usize, tls: bool) -> Self {
        let fleet = Fleet::new();
        let host = fleet.read("config/hosts/web-1.toml");
        for number in 2..=AGENTS {
            fleet.write(&format!("config/hosts/web-{number}.toml"), &host);
            fleet.write(&format!("secrets/web-{number}"), PASSWORD);
        }
        let mut siege = Self { fleet, agents: Vec::new(), tls: None };
        siege.start(descriptors);
        let token = siege.fleet.token();
        let port = siege.fleet.port;
        siege.agents = (1..=AGENTS).map(|number| Poster::enroll(port, &token, &format!("web-{number}"))).collect();
        if tls {
            siege.fleet.server = None;
            siege.set_up_tls();
            siege.start(descriptors);
        }
        siege
    }

    fn start(&mut self, descriptors: usize) {
        let fleet = &self.fleet;
        let (config, state) = (fleet.path("config"), fleet.path("state"));
        let limited = format!(
            "ulimit -n {descriptors}; exec {SERVER} serve --config {} --state {} --listen 127.0.0.1:{}",
            text(&config),
            text(&state),
            fleet.port
        );
        let server = Process::start("sh", &["-c", &limited], &fleet.path("server.log"), &[("RUST_LOG", "info")]);
        eventually("the server is ready", Duration::from_secs(20), || {
            self.connect()
                .and_then(|mut line| line.ask("GET", "/readyz", "", ""))
                .ok()
                .filter(|reply| reply.status == 200)
        });
        self.fleet.server = Some(server);
    }

    fn set_up_tls(&mut self) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        self.fleet.write("config/tls.crt", &made.cert.pem());
        self.fleet.write("config/tls.key", &made.signing_key.serialize_pem());
        let settings = self.fleet.read("config/server.toml") + "[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n";
        self.fleet.write("config/server.toml", &settings);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("PEM")).expect("a certificate");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.tls = Some(Arc::new(config));
    }

    fn socket(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.fleet.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(12)))?;
        Ok(stream)
    }

    fn with_tls(&self, stream: TcpStream) -> Option<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let session = rustls::ClientConnection::new(Arc::clone(self.tls.as_ref()?), name).expect("a session");
        Some(rustls::StreamOwned::new(session, stream))
    }

    fn connect(&self) -> io::Result<Connection> {
        let stream = self.socket()?;
        Ok(match self.tls {
            None => Connection::over(stream),
            Some(_) => Connection::over(self.with_tls(stream).expect("TLS")),
        })
    }

    /// One agent until the end: says hello and polls; what comes is noted with its time.
    fn poll(&self, agent: &Poster, stop: &AtomicBool, arrived: &Mutex<BTreeMap<String, Instant>>) -> io::Result<()> {
        let (host, credential, instance) = (&agent.host, &agent.credential, agent.instance);
        let hello = json!({"protocol_version": 1, "agent_version": "0", "hostname": "h", "os": "linux", "arch": "amd64", "instance_id": instance, "stream": Uuid::new_v4(), "running_jobs": []});
        let mut line = self.connect()?;
        line.ask("POST", &format!("/v1/agents/{host}/hello"), credential, &hello.to_string())?;
        let (mut cursor, mut has) = (String::new(), BTreeMap::new());
        while !stop.load(Ordering::SeqCst) {
            let versions: String = has.values().cloned().collect();
            let path = format!("/v1/agents/{host}/commands?instance={instance}&wait=5&after={cursor}{versions}");
            let reply = line.ask("GET", &path, credential, "")?;
            if reply.status != 200 {
                return Err(io::Error::other(reply.body));
            }
            let answer = reply.json();
            cursor = answer["cursor"].as_str().unwrap_or_default().to_owned();
            for message in answer["messages"].as_array().into_iter().flatten() {
                let (kind, payload) = (message["type"].as_str().unwrap_or_default(), &message["payload"]);
                let name = if kind == "config.update" { "config" } else { "schedule" };
                match payload["job_id"].as_str() {
                    Some(job) => drop(arrived.lock().expect("a lock").insert(job.to_owned(), Instant::now())),
                    None => {
                        let (version, hash) = (&payload["version"], payload["hash"].as_str().unwrap_or_default());
                        has.insert(name, format!("&{name}_version={version}&{name}_hash={hash}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Posts a job on a connection of its own: its id, and when that began. One that needs no lease, since none of them ends.
    fn post(&self, host: &str, token: &str) -> Option<(String, Instant)> {
        let begun = Instant::now();
        let path = format!("/v1/hosts/{host}/jobs");
        let reply = self.connect().and_then(|mut line| line.ask("POST", &path, token, r#"{"kind":"unlock"}"#)).ok()?;
        Some((reply.json()["id"].as_str()?.to_owned(), begun))
    }

    /// Holds `sockets` of the attack for so long, while every agent polls and jobs are posted.
    fn hold(&mut self, sockets: usize, attack: Attack, seconds: usize) -> Outcome {
        let token = self.fleet.token();
        let (stop, cut, closed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let (arrived, opened) = (Mutex::default(), AtomicUsize::new(0));
        let mut outcome = Outcome::default();
        let this = &*self;
        std::thread::scope(|scope| {
            // Also where something here fails: the others would go on for ever.
            let at_last = StopAtLast(&stop);
            for agent in &this.agents {
                let (stop, cut, arrived) = (&stop, &cut, &arrived);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        if this.poll(agent, stop, arrived).is_err() {
                            cut.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(100));
                        }
                    }
                });
            }
            // Every agent is there, and has been told what it should have.
            let warm: Vec<_> = this.agents.iter().filter_map(|agent| this.post(&agent.host, &token)).collect();
            let has_come = |job: &String| arrived.lock().expect("a lock").contains_key(job);
            eventually("all agents poll", Duration::from_secs(30), || {
                warm.iter().all(|(job, _)| has_come(job)).then_some(())
            });
            assert_eq!(warm.len(), AGENTS);

            for part in 0..4 {
                let (stop, closed, opened, token) = (&stop, &closed, &opened, &token);
                scope.spawn(move || {
                    let mut lines: Vec<Option<TcpStream>> = (0..sockets.div_ceil(4)).map(|_| None).collect();
                    while !stop.load(Ordering::SeqCst) {
                        let mut more = AT_ONCE;
                        for (number, line) in lines.iter_mut().enumerate() {
                            if line.as_ref().is_some_and(has_ended) {
                                closed.fetch_add(1, Ordering::SeqCst);
                                *line = None;
                            }
                            if line.is_none() && more > 0 {
                                more -= 1;
                                *line = attack(this, number + part, token).ok();
                                opened.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                });
            }
            let patience = Instant::now() + Duration::from_secs(30);
            while opened.load(Ordering::SeqCst) < sockets && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(10));
            }
            let until = Instant::now() + Duration::from_secs(seconds as u64);
            let mut posted = Vec::new();
            for agent in this.agents.iter().cycle() {
                if Instant::now() > until {
                    break;
                }
                outcome.jobs += 1;
                match this.post(&agent.host, &token) {
                    Some(job) => posted.push(job),
                    None => outcome.lost += 1,
                }
                std::thread::sleep(Duration::from_millis(30));
            }
            let patience = Instant::now() + Duration::from_secs(5);
            while posted.iter().any(|(job, _)| !has_come(job)) && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(at_last);
            let arrived = arrived.lock().expect("a lock");
            let came =
                |(job, begun): &(String, Instant)| arrived.get(job).map(|at| at.saturating_duration_since(*begun));
            let mut taken: Vec<Duration> = posted.iter().filter_map(came).collect();
            outcome.lost += posted.len() - taken.len();
            taken.sort_unstable();
            outcome.p99 = taken.get(taken.len() * 99 / 100).copied().unwrap_or(Duration::MAX);
            outcome.longest = taken.last().copied().unwrap_or(Duration::MAX);
        });
        outcome.cut = cut.into_inner();
        outcome.closed = closed.into_inner();
        outcome
    }
}

/// Opens the `number`th socket and leaves it to itself.
type Attack = fn(&Besieged, usize, &str) -> io::Result<TcpStream>;

/// Nothing; half a head, or half a handshake; half a body.
fn stalled(siege: &Besieged, number: usize, _: &str) -> io::Result<TcpStream> {
    let mut stream = siege.socket()?;
    let body = "POST /v1/enroll HTTP/1.1\r\nhost: x\r\ncontent-length: 300\r\n\r\n{\"token\":\"";
    match (number % 3, &siege.tls) {
        (0, _) => {}
        (1, None) => stream.write_all(b"GET /v1/hosts HTTP/1.1\r\nhost: x\r\nauthoriz")?,
        (1, Some(_)) => stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7])?,
        (_, None) => stream.write_all(body.as_bytes())?,
        (_, Some(_)) => {
            let mut encrypted = siege.with_tls(stream).expect("TLS");
            encrypted.write_all(body.as_bytes())?;
            encrypted.flush()?;
            stream = encrypted.sock;
        }
    }
    Ok(stream)
}

/// Somebody who has a token, and then says nothing more.
fn let_in(siege: &Besieged, _: usize, token: &str) -> io::Result<TcpStream> {
    let mut stream = siege.socket()?;
    let request = format!("GET /v1/hosts?limit=1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

fn has_ended(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// This program holds the sockets' other ends.
fn raise_own_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a higher limit");
}

#[test]
fn p11_a_thousand_stalled_sockets_stop_nobody() {
    raise_own_limit();
    for (tls, sockets) in [(false, 1000), (true, 1000), (false, 3000)] {
        let mut siege = Besieged::started(2048, tls);
        let mut outcome = siege.hold(sockets, stalled, count(10, 60));
        eprintln!("P11: {sockets} sockets, TLS {tls}: {outcome:?}");
        if !outcome.is_good() && outcome.lost == 0 {
            // Other tests run beside this one, and what it measures is time. Once more: what is slow by itself is slow again.
            siege = Besieged::started(2048, tls);
            outcome = siege.hold(sockets, stalled, count(10, 60));
            eprintln!("P11 again: {sockets} sockets, TLS {tls}: {outcome:?}");
        }
        assert!(outcome.is_good(), "{outcome:?}: {}", siege.fleet.read("server.log"));
        assert!(outcome.jobs >= 50, "{outcome:?}");
        assert!(siege.fleet.server.as_mut().expect("a server").is_running());
    }
}

#[test]
fn p11_the_control_sockets_that_are_not_held_to_the_strangers_share_stop_it() {
    raise_own_limit();
    let mut siege = Besieged::started(256, false);
    let outcome = siege.hold(300, let_in, 5);
    eprintln!("P11's control: {outcome:?}");
    assert!(!outcome.is_good(), "{outcome:?}");
    let port = siege.fleet.port;
    eventually("it serves again", Duration::from_secs(20), || ask(port, "GET", "/readyz", "", "").ok());
}
