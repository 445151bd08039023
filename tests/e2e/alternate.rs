//! Two servers behind one port, each request to the other one than the last: what a client is told must not depend on which
//! server it meets. Every HTTP request has its own connection here, so that none stays with one server; TLS connections are
//! passed on as they are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Listens until it is dropped; then the port refuses connections, as that of a server that is gone.
pub(crate) struct Alternator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Alternator {
    /// Passes connections to `port` on to one of `upstreams` after the other.
    pub(crate) fn start(port: u16, upstreams: Vec<u16>) -> Self {
        // A connection of the one before may hold the port for a moment.
        let until = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "port {port} is not free: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        listener.set_nonblocking(true).expect("a socket that does not block");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut next = upstreams.iter().cycle();
            while !stopped.load(Ordering::Relaxed) {
                match (listener.accept(), next.next()) {
                    (Ok((client, _)), Some(port)) => {
                        let port = *port;
                        client.set_nonblocking(false).expect("a socket that blocks");
                        std::thread::spawn(move || pass_on(client, port));
                    }
                    _ => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Alternator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One connection. Whatever goes wrong ends it, as a network does.
fn pass_on(mut client: TcpStream, port: u16) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    // TLS records begin with this byte.
    while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&0x16) {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    server.write_all(&closing(&head)).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let upwards = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        // A client that has gone away frees its poll.
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    // The client closes when it has the answer; closing before it does could take the answer from it.
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = upwards.join();
    Some(())
}

/// The head with `Connection: close`, so that the next request comes on a connection of its own.
fn closing(head: &[u8]) -> Vec<u8> {
    if head.first() == Some(&0x16) {
        return head.to_vec();
    }
    let text = String::from_utf8_lossy(head);
    let lines = text.trim_end().split("\r\n");
    let kept: Vec<&str> = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).into_bytes()
}
