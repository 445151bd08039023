//! What alerts are told to: a web server that remembers every request, and answers as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::harness::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Whether the signature is that of this key.
    pub(crate) fn is_signed_with(&self, key: &str) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key");
        mac.update(format!("{}.{}", self.header("x-restic-manager-timestamp"), self.body).as_bytes());
        let expected = format!("sha256={}", data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes()));
        self.header("x-restic-manager-signature") == expected
    }
}

/// Listens until it is dropped.
pub(crate) struct Receiver {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Received>>>,
    /// What every request is answered with; 0: nothing at all.
    status: Arc<Mutex<u16>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        Self::at(0)
    }

    /// At a port that was another's before.
    pub(crate) fn at(port: u16) -> Self {
        let listener =
            eventually("the port is free", Duration::from_secs(5), || TcpListener::bind(("127.0.0.1", port)).ok());
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("an address").port();
        let (requests, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(200)));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, answer, stopped) = (Arc::clone(&requests), Arc::clone(&status), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(&stream, &seen, &answer));
            }
        });
        Self { port, requests, status, stop, thread: Some(thread) }
    }

    pub(crate) fn answer(&self, status: u16) {
        *self.status.lock().expect("no panic") = status;
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.requests.lock().expect("no panic").clone()
    }

    /// Waits for so many requests and gives them.
    pub(crate) fn await_count(&self, count: usize) -> Vec<Received> {
        let what = format!("{count} requests at port {}", self.port);
        eventually(&what, Duration::from_secs(30), || Some(self.received()).filter(|found| found.len() >= count))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// A mail server that takes everything, without TLS or a login, and remembers the subjects; until the test ends.
pub(crate) struct MailReceiver {
    pub(crate) port: u16,
    subjects: Arc<Mutex<Vec<String>>>,
}

impl MailReceiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let subjects = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&subjects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || take_mail(&stream, &seen));
            }
        });
        Self { port, subjects }
    }

    /// Of every mail that was taken, in order.
    pub(crate) fn subjects(&self) -> Vec<String> {
        self.subjects.lock().expect("no panic").clone()
    }
}

/// One dialogue of SMTP. A subject counts when its mail was taken as a whole.
fn take_mail(stream: &TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    write!(writer, "220 here\r\n").ok()?;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let answer = match line.get(..4)?.to_ascii_uppercase().as_str() {
            "DATA" => {
                write!(writer, "354 go on\r\n").ok()?;
                let mut subject = String::new();
                while line != ".\r\n" {
                    line.clear();
                    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
                    if let Some(text) = line.strip_prefix("Subject: ") {
                        text.trim_end().clone_into(&mut subject);
                    }
                }
                seen.lock().ok()?.push(subject);
                "250 taken"
            }
            "QUIT" => "221 bye",
            _ => "250 yes",
        };
        write!(writer, "{answer}\r\n").ok()?;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One request; the connection ends with it.
fn serve(stream: &TcpStream, seen: &Mutex<Vec<Received>>, answer: &Mutex<u16>) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    seen.lock().ok()?.push(Received { path, headers, body: String::from_utf8(body).ok()? });
    let status = *answer.lock().ok()?;
    if status == 0 {
        // A black hole: until the other side gives up.
        let _ = reader.read(&mut [0]);
        return None;
    }
    let mut writer = stream;
    write!(writer, "HTTP/1.1 {status} Said\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsaid").ok()
}
