//! Connections that cost without asking for anything: too many of them, clients that read nothing, and peers that vanish.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::harness::{Fleet, Process, SERVER, eventually, text};
use crate::parked::{HEALTHZ, Scene};

#[cfg(unix)]
#[test]
fn a_server_out_of_descriptors_says_so_once_and_serves_again_when_some_are_free() {
    let mut fleet = Fleet::new();
    let (config, state, log) = (fleet.path("config"), fleet.path("state"), fleet.path("server.log"));
    let listen = format!("127.0.0.1:{}", fleet.port);
    let limited = format!(
        "ulimit -n 64; exec {SERVER} serve --config {} --state {} --listen {listen}",
        text(&config),
        text(&state)
    );
    fleet.server = Some(Process::start("sh", &["-c", &limited], &log, &[]));
    eventually("the server is ready", Duration::from_secs(20), || {
        fleet.curl(&["/readyz"]).filter(|(code, _)| *code == 200)
    });
    let lines: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&listen).expect("connect")).collect();
    let says = || fleet.read("server.log").lines().filter(|line| line.contains("cannot accept clients")).count();
    eventually("it is told", Duration::from_secs(10), || (says() > 0).then_some(()));
    drop(lines);
    eventually("it serves again", Duration::from_secs(10), || fleet.curl(&["-m", "1", "/healthz"]));
    assert_eq!(says(), 1, "not at every try");
}

/// A client that only asks would else be kept, with its answers, for as long as it likes.
#[cfg(target_os = "linux")]
#[test]
fn a_client_that_takes_nothing_of_its_answers_is_given_up_on() {
    let scene = Scene::new(false);
    let mut stream = TcpStream::connect(("127.0.0.1", scene.fleet.direct_port())).expect("connect");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let requests = HEALTHZ.repeat(1000);
    let begun = Instant::now();
    let full = loop {
        match stream.write_all(requests.as_bytes()) {
            Ok(()) => assert!(begun.elapsed() < Duration::from_secs(60), "the server reads without end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    eventually("it is given up on", Duration::from_secs(60), || {
        scene.fleet.read("server.log").contains("a client takes nothing of its answer").then_some(())
    });
    assert!(begun.elapsed() > Duration::from_secs(25), "not a client that is only slow");
    // What the system had taken comes, and then the end.
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut piece = [0; 65_536];
    let ended = loop {
        match stream.read(&mut piece) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended);
}

/// A NAT in between forgets silently: nobody tells that the agent is gone.
#[cfg(target_os = "linux")]
#[test]
fn peers_of_silent_connections_are_asked_whether_they_are_there() {
    let scene = Scene::new(false);
    let mut line = scene.connect();
    line.send(HEALTHZ);
    assert_eq!(line.answer().1["status"], "ok");
    let ours = format!(":{:04X}", scene.fleet.direct_port());
    let keepalive = |table: &str| {
        table.lines().skip(1).find_map(|row| {
            let fields: Vec<&str> = row.split_whitespace().collect();
            // Established, at the server's end; the timer that runs is the keepalive's (2), in hundredths of a second.
            let (timer, when) = fields[5].split_once(':')?;
            let is_it = fields[1].ends_with(&ours) && fields[3] == "01" && timer == "02";
            is_it.then(|| u64::from_str_radix(when, 16).expect("hexadecimal"))
        })
    };
    let due = eventually("the timer runs", Duration::from_secs(5), || {
        keepalive(&std::fs::read_to_string("/proc/net/tcp").expect("a table"))
    });
    assert!(due <= 3000, "{due}");
}

#[test]
fn an_agent_that_comes_back_resumes_its_tls_session() {
    let scene = Scene::new(true);
    let config = scene.tls.clone().expect("TLS");
    let kinds: Vec<_> = (0..2)
        .map(|_| {
            let name = ServerName::try_from("127.0.0.1").expect("a name");
            let mut session = rustls::ClientConnection::new(Arc::clone(&config), name).expect("a session");
            let mut stream = TcpStream::connect(("127.0.0.1", scene.fleet.direct_port())).expect("connect");
            let mut stream = rustls::Stream::new(&mut session, &mut stream);
            stream.write_all(HEALTHZ.as_bytes()).expect("write");
            let count = stream.read(&mut [0; 4096]).expect("read");
            assert!(count > 0);
            session.handshake_kind()
        })
        .collect();
    assert_eq!(kinds, [Some(rustls::HandshakeKind::Full), Some(rustls::HandshakeKind::Resumed)]);
}
