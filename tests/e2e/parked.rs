//! Parked polls over raw sockets, plain and TLS: a poll that waits is taken from hyper and answered by its connection's task, and
//! nobody outside can tell. That it was taken is read in the server's log.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use crate::bad_input::{INSTANCE, STREAM, enrolled_with_curl, hello};
use crate::harness::{Fleet, Process, SERVER, eventually, text};

pub(crate) trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// One connection, and what was read of it and not looked at.
pub(crate) struct Line {
    pub(crate) stream: Box<dyn Both>,
    read: Vec<u8>,
}

impl Line {
    pub(crate) fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).expect("write");
        self.stream.flush().expect("flush");
    }

    /// The next answer: its head and its body. Fails when the connection ends or is silent for 15 s.
    pub(crate) fn answer(&mut self) -> (String, Value) {
        let mut piece = [0; 4096];
        loop {
            let text = String::from_utf8(self.read.clone()).expect("UTF-8");
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
                let length: usize = length.parse().expect("a number");
                if rest.len() >= length {
                    self.read = rest.as_bytes()[length..].to_vec();
                    return (head.to_owned(), serde_json::from_str(&rest[..length]).expect("JSON"));
                }
            }
            let begun = Instant::now();
            let count = loop {
                match self.stream.read(&mut piece) {
                    Err(error) if is_timeout(&error) && begun.elapsed() < Duration::from_secs(15) => {}
                    read => break read.expect("an answer in time"),
                }
            };
            assert!(count > 0, "the connection ended after {text:?}");
            self.read.extend_from_slice(&piece[..count]);
        }
    }

    /// Whether nothing comes for a while.
    fn is_silent(&mut self) -> bool {
        self.stream.read(&mut [0]).is_err_and(|error| is_timeout(&error))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.read.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// A server, plain or with TLS, and an agent of it that is up to date and has nobody but this test to speak for it.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    bearer: String,
    /// The query of a poll that has nothing to be told.
    query: String,
    cursor: String,
}

impl Scene {
    pub(crate) fn new(tls: bool) -> Self {
        let mut fleet = Fleet::new();
        fleet.start_server();
        let bearer = enrolled_with_curl(&fleet, "web-1");
        let ask = |arguments: &[&str]| fleet.ask(&bearer, arguments).expect("an answer").json();
        ask(&["-d", &hello(INSTANCE, STREAM).to_string(), "/v1/agents/web-1/hello"]);
        let told = ask(&[&format!("/v1/agents/web-1/commands?instance={INSTANCE}&wait=0")]);
        let hash = |index: usize| told["messages"][index]["payload"]["hash"].as_str().expect("a hash").to_owned();
        let query = format!(
            "instance={INSTANCE}&config_version=1&config_hash={}&schedule_version=1&schedule_hash={}",
            hash(0),
            hash(1)
        );
        let cursor = told["cursor"].as_str().expect("a cursor").to_owned();
        let mut scene = Self { fleet, tls: None, bearer, query, cursor };
        if tls {
            scene.restart_with_tls();
        }
        scene
    }

    fn restart_with_tls(&mut self) {
        let fleet = &mut self.fleet;
        fleet.server = None;
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        fleet.write("config/tls.crt", &made.cert.pem());
        fleet.write("config/tls.key", &made.signing_key.serialize_pem());
        let settings = "secret_roots = [\"../secrets\"]\n[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n";
        fleet.write("config/server.toml", settings);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("PEM")).expect("a certificate");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.tls = Some(Arc::new(config));
        let (config, state) = (fleet.path("config"), fleet.path("state"));
        let listen = format!("127.0.0.1:{}", fleet.port);
        let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", &listen];
        let log = fleet.path("server.log");
        fleet.server = Some(Process::start(SERVER, &arguments, &log, &[("RUST_LOG", "debug")]));
        eventually("the server listens", Duration::from_secs(20), || TcpStream::connect(&listen).ok());
    }

    pub(crate) fn connect(&self) -> Line {
        self.connect_with_patience(Duration::from_secs(15))
    }

    pub(crate) fn connect_with_patience(&self, patience: Duration) -> Line {
        let stream = TcpStream::connect(("127.0.0.1", self.fleet.direct_port())).expect("connect");
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        let stream: Box<dyn Both> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::try_from("127.0.0.1").expect("a name");
                let session = rustls::ClientConnection::new(Arc::clone(config), name).expect("a session");
                Box::new(rustls::StreamOwned::new(session, stream))
            }
        };
        Line { stream, read: Vec::new() }
    }

    /// The agent's credential.
    pub(crate) fn credential(&self) -> &str {
        self.bearer.rsplit(' ').next().unwrap_or_default()
    }

    /// A poll's bytes; `line` is the HTTP version and any headers that follow.
    fn poll(&self, cursor: &str, wait: u64, line: &str) -> String {
        let Self { query, bearer, .. } = self;
        format!(
            "GET /v1/agents/web-1/commands?{query}&after={cursor}&wait={wait} {line}\r\nhost: x\r\n{bearer}\r\n\r\n"
        )
    }

    /// Sends a poll that has nothing to be told, and returns when it is parked.
    pub(crate) fn park(&self, line: &mut Line, version: &str) {
        let before = self.count(PARKED);
        line.send(&self.poll(&self.cursor, 60, version));
        self.wait_for(PARKED, before + 1);
    }

    fn count(&self, said: &str) -> usize {
        let log = self.fleet.read("server.log");
        log.lines().filter(|line| line.contains(said)).count()
    }

    fn wait_for(&self, said: &str, count: usize) {
        eventually(&format!("{count} polls {said}"), Duration::from_secs(10), || {
            (self.count(said) >= count).then_some(())
        });
    }

    /// A request of the admin's over a connection of its own.
    fn admin(&self, request: &str, body: &str) -> Value {
        let mut line = self.connect();
        let bearer = self.fleet.bearer();
        line.send(&format!(
            "{request} HTTP/1.1\r\nhost: x\r\n{bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        line.answer().1
    }

    /// One that needs no lease: it becomes a command also where the one before has not ended.
    fn new_job(&self) -> Value {
        let job = self.admin("POST /v1/hosts/web-1/jobs", r#"{"kind":"unlock"}"#);
        assert!(job["id"].is_string(), "{job}");
        job["id"].clone()
    }
}

/// What the server's log says.
const PARKED: &str = "a poll is parked";
const ANSWERED: &str = "a parked poll is answered";
pub(crate) const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

/// The answer to a poll, which must be a whole one.
fn messages((head, body): &(String, Value)) -> Vec<Value> {
    assert!(head.contains(" 200 OK\r\n"), "{head}");
    for header in ["\r\ncontent-type: application/json", "\r\ncache-control: no-store", "\r\ndate: "] {
        assert!(head.contains(header), "{head}");
    }
    body["messages"].as_array().expect("messages").clone()
}

#[test]
fn a_parked_poll_gets_its_command_and_its_connection_goes_on() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let mut line = scene.connect();
        line.send(HEALTHZ);
        assert_eq!(line.answer().1["status"], "ok");
        scene.park(&mut line, "HTTP/1.1");
        let id = scene.new_job();
        let answer = line.answer();
        let told = messages(&answer);
        assert_eq!((told.len(), &told[0]["payload"]["job_id"]), (1, &id), "{}", answer.1);
        assert!(answer.0.starts_with("HTTP/1.1 ") && !answer.0.contains("connection:"), "{}", answer.0);
        assert_eq!(scene.count(ANSWERED), 1, "by the connection's task");
        line.send(HEALTHZ);
        assert_eq!(line.answer().1["status"], "ok");
        // The agent has it now, and waits for more, on the same connection.
        let cursor = answer.1["cursor"].as_str().expect("a cursor").to_owned();
        line.send(&scene.poll(&cursor, 5, "HTTP/1.1"));
        scene.wait_for(PARKED, 2);
        let begun = Instant::now();
        let answer = line.answer();
        assert_eq!((messages(&answer), &answer.1["cursor"]), (Vec::new(), &json!(cursor)), "the wait is over");
        assert!((3..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}

#[test]
fn requests_behind_a_parked_poll_are_answered_after_it_in_their_order() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let poll = scene.poll(&scene.cursor, 60, "HTTP/1.1");
        // In one piece; and the second poll is behind a whole request and half of another.
        let mut line = scene.connect();
        let nothing = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
        line.send(&format!("{HEALTHZ}{poll}{nothing}{}", &HEALTHZ[..20]));
        assert_eq!(line.answer().1["status"], "ok");
        scene.wait_for(PARKED, 1);
        line.send(&HEALTHZ[20..]);
        let id = scene.new_job();
        assert_eq!(messages(&line.answer())[0]["payload"]["job_id"], id);
        assert_eq!(line.answer().1["code"], "no-such-path");
        assert_eq!(line.answer().1["status"], "ok");
        // Byte by byte while it is parked: the first one is what the watch for the client's end reads.
        let mut line = scene.connect();
        let told = {
            line.send(&scene.poll("", 0, "HTTP/1.1"));
            line.answer().1["cursor"].as_str().expect("a cursor").to_owned()
        };
        line.send(&scene.poll(&told, 60, "HTTP/1.1"));
        scene.wait_for(PARKED, 2);
        for byte in nothing.chars() {
            line.send(&byte.to_string());
        }
        scene.new_job();
        assert_eq!(messages(&line.answer()).len(), 1);
        assert_eq!(line.answer().1["code"], "no-such-path");
    }
}

#[test]
fn a_parked_poll_is_answered_in_the_version_and_manner_of_its_request() {
    let scene = Scene::new(false);
    let close = "HTTP/1.1\r\nConnection: close";
    let kept = "HTTP/1.0\r\nConnection: keep-alive";
    // None is closed meanwhile: when the server sees that is not told by the order of events.
    let mut newer_ones = Vec::new();
    for (number, (request, status, header)) in [
        ("HTTP/1.0", "HTTP/1.0 200 OK", None),
        (close, "HTTP/1.1 200 OK", Some("connection: close")),
        (kept, "HTTP/1.0 200 OK", Some("connection: keep-alive")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut line = scene.connect();
        scene.park(&mut line, request);
        // A newer poll takes the older one's place, which is answered at once.
        let mut newer = scene.connect();
        scene.park(&mut newer, "HTTP/1.1");
        newer_ones.push(newer);
        let answer = line.answer();
        assert_eq!((messages(&answer), &answer.1["cursor"]), (Vec::new(), &json!(scene.cursor)));
        assert!(answer.0.starts_with(&format!("{status}\r\n")), "{}", answer.0);
        let found = answer.0.lines().find(|line| line.starts_with("connection:"));
        assert_eq!(found, header, "{request}");
        if request == kept {
            line.send(HEALTHZ);
            assert_eq!(line.answer().1["status"], "ok");
        } else {
            assert!(line.has_ended(), "{request}");
        }
        // This one, and the newer ones of the requests before.
        assert_eq!(scene.count(ANSWERED), 2 * number + 1);
    }
    // A GET with a body is hyper's alone, and answered all the same.
    let parked = scene.count(PARKED);
    let mut odd = scene.connect_with_patience(Duration::from_millis(700));
    odd.send(&(scene.poll(&scene.cursor, 60, "HTTP/1.1\r\ncontent-length: 2") + "{}"));
    assert!(odd.is_silent(), "it waits");
    let id = scene.new_job();
    assert_eq!(messages(&odd.answer())[0]["payload"]["job_id"], id);
    assert_eq!(scene.count(PARKED), parked);
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_goes_away_while_parked_leaves_nothing_behind() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let server = scene.fleet.server.as_ref().expect("a server").id();
        let sockets = || {
            let descriptors = std::fs::read_dir(format!("/proc/{server}/fd")).expect("a process");
            let names = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
        };
        let none = eventually("earlier connections are gone", Duration::from_secs(10), || {
            let count = sockets();
            std::thread::sleep(Duration::from_millis(300));
            (sockets() == count).then_some(count)
        });
        let mut lines: Vec<Line> = (0..10).map(|_| scene.connect()).collect();
        for line in &mut lines {
            scene.park(line, "HTTP/1.1");
        }
        // The nine older ones were answered and are idle; the last one is parked.
        assert_eq!(sockets(), none + 10);
        drop(lines);
        eventually("the descriptors are closed", Duration::from_secs(10), || (sockets() == none).then_some(()));
    }
}

#[test]
fn a_revoked_credential_ends_its_parked_poll_within_a_second() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let mut line = scene.connect();
        scene.park(&mut line, "HTTP/1.1");
        let begun = Instant::now();
        assert_eq!(scene.admin("DELETE /v1/hosts/web-1/credential", "")["revoked"], true);
        let (head, body) = line.answer();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(
            head.starts_with("HTTP/1.1 401 Unauthorized\r\n") && head.contains("www-authenticate: Bearer"),
            "{head}"
        );
        assert_eq!(body["code"], "unauthorized");
        assert_eq!(scene.count(ANSWERED), 1);
    }
}

#[cfg(unix)]
#[test]
fn a_server_that_stops_answers_what_is_parked_with_the_same_cursor_and_ends() {
    for tls in [false, true] {
        let mut scene = Scene::new(tls);
        let (mut parked, mut idle) = (scene.connect(), scene.connect());
        idle.send(HEALTHZ);
        assert_eq!(idle.answer().1["status"], "ok");
        scene.park(&mut parked, "HTTP/1.1");
        let mut server = scene.fleet.server.take().expect("a server");
        let begun = Instant::now();
        server.signal("TERM");
        let answer = parked.answer();
        assert_eq!((messages(&answer), &answer.1["cursor"]), (Vec::new(), &json!(scene.cursor)));
        assert!(answer.0.contains("\r\nconnection: close"), "{}", answer.0);
        assert!(parked.has_ended() && idle.has_ended());
        assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody was waited for: {:?}", begun.elapsed());
    }
}
