//! Connections that cost without asking for anything: too many of them, clients that read nothing, and peers that vanish.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::harness::{Fleet, Process, SERVER, eventually, text};
use crate::parked::{HEALTHZ, Scene};

/// A fleet whose server has this many descriptors.
#[cfg(unix)]
fn with_descriptors(count: usize) -> Fleet {
    let mut fleet = Fleet::new();
    let (config, state, log) = (fleet.path("config"), fleet.path("state"), fleet.path("server.log"));
    let limited = format!(
        "ulimit -n {count}; exec {SERVER} serve --config {} --state {} --listen 127.0.0.1:{}",
        text(&config),
        text(&state),
        fleet.port
    );
    fleet.server = Some(Process::start("sh", &["-c", &limited], &log, &[]));
    eventually("the server is ready", Duration::from_secs(20), || {
        fleet.curl(&["/readyz"]).filter(|(code, _)| *code == 200)
    });
    fleet
}

#[cfg(unix)]
fn connect(fleet: &Fleet) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", fleet.port)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    stream
}

#[cfg(unix)]
#[test]
fn connections_on_which_nobody_shows_a_token_are_not_in_the_others_way_however_many_there_are() {
    let fleet = with_descriptors(64);
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.extend((0..40).map(|_| connect(&fleet)));
        assert_eq!(fleet.curl(&["-m", "5", "/v1/hosts"]).expect("an answer").0, 200);
    }
    let ended: Vec<bool> = lines.iter_mut().take(100).map(|line| matches!(line.read(&mut [0]), Ok(0))).collect();
    assert!(ended.iter().all(|ended| *ended), "the oldest went: {ended:?}");
    let says = fleet.read("server.log").matches("nobody shows a token").count();
    assert_eq!(says, 1, "not at every one");
}

#[cfg(unix)]
#[test]
fn a_server_out_of_descriptors_says_so_once_and_serves_again_when_some_are_free() {
    let fleet = with_descriptors(64);
    // Of those who may be there none is closed for another.
    let request = format!("GET /v1/hosts HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", fleet.bearer());
    let mut lines: Vec<TcpStream> = Vec::new();
    let says = || fleet.read("server.log").lines().filter(|line| line.contains("cannot accept clients")).count();
    eventually("it is told", Duration::from_secs(20), || {
        let mut line = connect(&fleet);
        line.write_all(request.as_bytes()).expect("write");
        let _ = line.read(&mut [0; 4096]);
        lines.push(line);
        (says() > 0).then_some(())
    });
    assert!(lines.len() > 30, "{}", lines.len());
    // Who is there goes on, with all the files that it takes.
    let body = r#"{"kind":"check","queue_for":"1h"}"#;
    let post = format!(
        "POST /v1/hosts/web-1/jobs HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        fleet.bearer(),
        body.len()
    );
    lines[0].set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    lines[0].write_all(post.as_bytes()).expect("write");
    let mut piece = [0; 4096];
    let count = lines[0].read(&mut piece).expect("an answer");
    assert!(piece[..count].starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&piece[..count]));
    drop(lines);
    eventually("it serves again", Duration::from_secs(10), || fleet.curl(&["-m", "1", "/healthz"]));
    assert_eq!(says(), 1, "not at every try");
}

/// When each of these connections ends, in seconds from now, while `send` is called with each of them every half second.
#[cfg(unix)]
fn ends(lines: &mut [TcpStream], until: u64, mut send: impl FnMut(usize, &mut TcpStream)) -> Vec<Option<u64>> {
    let begun = Instant::now();
    let mut ended = vec![None; lines.len()];
    while begun.elapsed() < Duration::from_secs(until) {
        for (number, line) in
            lines.iter_mut().enumerate().filter(|(number, _)| ended[*number].is_none()).collect::<Vec<_>>()
        {
            let is_open = match line.read(&mut [0; 4096]) {
                Ok(count) => count > 0,
                Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            };
            if is_open {
                send(number, line);
            } else {
                ended[number] = Some(begun.elapsed().as_secs());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ended
}

#[cfg(unix)]
#[test]
fn silent_strangers_and_slow_heads_are_closed_after_fifteen_seconds_and_an_agents_silence_is_not() {
    let fleet = with_descriptors(256);
    let known = format!("GET /v1/hosts HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", fleet.bearer());
    let (silent, asked, slow, again, waits) = (0, 1, 2, 3, 4);
    let mut lines: Vec<TcpStream> = (0..5).map(|_| connect(&fleet)).collect();
    let mut piece = [0; 4096];
    for (number, first) in [(asked, HEALTHZ), (again, &known), (waits, &known)] {
        lines[number].write_all(first.as_bytes()).expect("write");
        let answered = eventually("an answer", Duration::from_secs(5), || lines[number].read(&mut piece).ok());
        assert!(answered > 0);
    }
    for number in [slow, again] {
        lines[number].write_all(b"GET /healthz HTTP/1.1\r\nx: ").expect("write");
    }
    // Byte by byte: each of them is a sign of life, and of no use.
    let ended = ends(&mut lines, 20, |number, line| {
        if number == slow || number == again {
            let _ = line.write_all(b"x");
        }
    });
    for (number, what) in [(silent, "silent"), (asked, "not let in"), (slow, "slow"), (again, "slow, let in before")] {
        assert!(ended[number].is_some_and(|at| (13..19).contains(&at)), "{what}: {ended:?}");
    }
    assert_eq!(ended[waits], None);
    lines[waits].write_all(HEALTHZ.as_bytes()).expect("write");
    let answered = eventually("an answer", Duration::from_secs(5), || lines[waits].read(&mut piece).ok());
    assert!(answered > 0, "it goes on");
}

/// A load balancer sees that it is to go elsewhere, and nobody's request is lost.
#[cfg(unix)]
#[test]
fn a_server_that_stops_is_not_ready_takes_nobody_and_answers_what_has_begun() {
    for tls in [false, true] {
        let mut scene = Scene::new(tls);
        let mut asks = scene.connect();
        asks.send("GET /readyz HTTP/1.1\r\nhost: x\r\n");
        let mut waits = scene.connect();
        let (bearer, body) = (scene.fleet.bearer(), r#"{"kind":"check","queue_for":"1h"}"#);
        waits.send(&format!(
            "POST /v1/hosts/web-1/jobs?wait=60 HTTP/1.1\r\nhost: x\r\n{bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        eventually("the job is queued", Duration::from_secs(10), || {
            scene.fleet.journal().iter().any(|line| line["type"] == "job.queued").then_some(())
        });
        let port = scene.fleet.direct_port();
        let mut server = scene.fleet.server.take().expect("a server");
        let begun = Instant::now();
        server.signal("TERM");
        eventually("nobody is taken", Duration::from_secs(2), || {
            TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
        });
        asks.send("\r\n");
        let (head, body) = asks.answer();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nconnection: close"), "{head}");
        assert_eq!(body["code"], "stopping");
        let (head, body) = waits.answer();
        assert!(head.starts_with("HTTP/1.1 201 ") && head.contains("\r\nconnection: close"), "{head}");
        assert_eq!(body["status"], "queued", "{body}");
        assert!(asks.has_ended() && waits.has_ended());
        assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
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
