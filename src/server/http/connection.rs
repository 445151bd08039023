//! Edge. A connection's life. While a request is read and answered, hyper has it, with some 10 KiB of buffers. Between requests
//! and while a poll is parked there is only the socket and what has to be remembered: the connection is taken from hyper, and
//! hyper's buffers go. Does not know routes, and not what a poll waits for.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll as Polled;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::answer::Answer;
use super::peer::Peer;
use super::poll::{COMMANDS, Poll, look_again};
use super::replay::Replay;
use super::socket::Socket;
use super::stage::{HEAD_LIMIT, Head, IDLE_LIMIT, Stage, head, idle_limit};
use super::strangers::Stranger;
use super::whole_answer::{Manner, beat, beginning, bytes_of, ending};
use crate::clock;
use crate::server::app::stopped;
use crate::server::served_tls::CurrentTls;

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for this long is given up on.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last words may take.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);
/// How often a connection's limits are looked at, where none of them is nearer.
const CHECK: Duration = Duration::from_secs(5);
/// How long a head that has begun to come is waited for when the server stops.
const LAST_HEAD_LIMIT: Duration = Duration::from_secs(1);
/// How many requests are begun at once: when ten thousand agents come together, all of hyper's buffers would else be there at
/// once, and the heap stays as large as it once was. Those of strangers have turns of their own: however many there are, they
/// are in nobody else's way.
static TURNS: Semaphore = Semaphore::const_new(128);
static STRANGERS_TURNS: Semaphore = Semaphore::const_new(128);
/// How long a request keeps others from beginning: most are parked or answered sooner, and a slow one must not stop the rest.
const TURN_LIMIT: Duration = Duration::from_millis(20);
type Turn = SemaphorePermit<'static>;
const HEADER_BYTES: usize = 16 * 1024;
const HEADER_FIELDS: usize = 64;

/// From the accepted socket to its end.
pub async fn run(shared: Arc<Shared>, stream: TcpStream, stranger: Stranger) {
    let mut socket = match shared.app.tls.current() {
        None => Socket::Plain(stream),
        // Boxed apart, like each phase: its state is large and lives shortly, and this future is as large as its largest part.
        Some(tls) => match Box::pin(handshake(tls, stream)).await {
            Some(socket) => socket,
            None => return,
        },
    };
    // Until somebody has shown a token or a credential that counts. Who parks a poll has.
    let mut stranger = Some(stranger);
    // What was read of the next request.
    let mut before = Vec::new();
    loop {
        let is_stranger = stranger.is_some();
        let Some(turn) = Box::pin(next_request(&shared, &mut socket, &mut before, is_stranger)).await else { break };
        let peer = Peer::new(socket.peer_address(), socket.certified_by(), stranger.take());
        let Some(mut taken) = Box::pin(serve_requests(&shared, socket, before, turn, peer)).await else { return };
        let goes_on = parked(&shared, &mut taken).await;
        (socket, before) = (taken.socket, taken.before);
        if !goes_on {
            break;
        }
    }
    let _ = timeout(GOODBYE_LIMIT, socket.shutdown()).await;
}

async fn handshake(tls: Arc<CurrentTls>, stream: TcpStream) -> Option<Socket> {
    match timeout(HANDSHAKE_LIMIT, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(Socket::tls(stream, tls.client_ca)),
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
    None
}

/// Waits for the next request's head, and then for a turn to be served; `None` when there will be no request. What comes slowly
/// is gathered here, where it costs its own bytes only.
async fn next_request(shared: &Shared, socket: &mut Socket, before: &mut Vec<u8>, is_stranger: bool) -> Option<Turn> {
    let mut stopping = shared.app.stopping.subscribe();
    if before.is_empty() {
        let byte = tokio::select! {
            biased;
            byte = socket.byte() => byte,
            () = sleep(idle_limit(is_stranger)) => None,
            () = stopped(&mut stopping) => None,
        };
        before.push(byte?);
    }
    let is_there = tokio::select! {
        biased;
        is_there = gather_head(socket, before) => is_there,
        () = sleep(HEAD_LIMIT) => false,
        () = async { stopped(&mut stopping).await; sleep(LAST_HEAD_LIMIT).await } => false,
    };
    if !is_there {
        tracing::debug!("a request's head did not come");
        return None;
    }
    // They are never closed.
    if is_stranger { STRANGERS_TURNS.acquire().await.ok() } else { TURNS.acquire().await.ok() }
}

/// Reads until hyper can answer what is there; `false` when no more comes.
async fn gather_head(socket: &mut Socket, before: &mut Vec<u8>) -> bool {
    let mut looked_at = 0;
    while before.len() < HEADER_BYTES && head(before, looked_at) == Head::Partial {
        looked_at = before.len();
        before.reserve(1024);
        if !matches!(socket.read_buf(before).await, Ok(1..)) {
            return false;
        }
    }
    true
}

/// A connection that hyper does not have, and the poll that is parked on it.
struct Taken {
    socket: Socket,
    /// What has been read of what comes after the poll.
    before: Vec<u8>,
    waiting: Box<Waiting>,
}

/// A poll that waits for its answer, and how that is to be written.
struct Waiting {
    poll: Poll,
    manner: Manner,
    /// The answer's head is written: signs of life were asked for.
    has_begun: bool,
}

/// Where a handler leaves a poll that has to wait, for its connection's task to take.
pub struct Handover {
    shelf: Arc<Mutex<Option<Box<Waiting>>>>,
    manner: Manner,
}

impl Handover {
    /// Leaves the poll, and waits to be dropped: the connection is taken from hyper with nothing of the answer written.
    pub async fn park<T>(self, poll: Poll) -> T {
        let waiting = Box::new(Waiting { poll, manner: self.manner, has_begun: false });
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiting);
        pending().await
    }
}

/// hyper answers requests until the connection ends (`None`) or a poll is parked.
async fn serve_requests(
    shared: &Arc<Shared>,
    socket: Socket,
    before: Vec<u8>,
    turn: Turn,
    peer: Peer,
) -> Option<Taken> {
    let mut turn = Some(turn);
    let peer = Arc::new(peer);
    let shelf = Arc::new(Mutex::new(None));
    let replay = Replay::new(socket, before);
    let stalled = replay.stalled();
    let service = service_fn(|request| {
        let handover = Manner::of(&request).map(|manner| Handover { shelf: Arc::clone(&shelf), manner });
        let (shared, peer) = (Arc::clone(shared), Arc::clone(&peer));
        async move {
            peer.begin();
            let answer = super::answer_request(&shared, request, handover, &peer).await;
            peer.end(&answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper counts silence and a slow head together. The stage tells them apart, and closes before this does.
        .header_read_timeout(IDLE_LIMIT + HEAD_LIMIT + CHECK)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_FIELDS)
        .serve_connection(TokioIo::new(replay), service);
    let mut stopping = shared.app.stopping.subscribe();
    let mut stop = pin!(stopped(&mut stopping));
    let mut is_stopping = false;
    let mut stage = Stage::of_a_head(Instant::now().into_std());
    let mut check = pin!(sleep(TURN_LIMIT));
    let waiting = std::future::poll_fn(|cx| {
        // Clients go away all the time; that is no error of ours.
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Polled::Ready(None);
        }
        // After hyper has looked: a request that is here already is answered yet.
        if !is_stopping && stop.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Polled::Ready(None);
            }
        }
        // hyper has written what it had, unless the socket is full: of an earlier request on this connection.
        let stalled_since = stalled.since();
        if stalled_since.is_none()
            && let Some(waiting) = shelf.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Polled::Ready(Some(waiting));
        }
        let now = Instant::now();
        stage.look(peer.seen(stalled.reads()), now.into_std());
        while check.as_mut().poll(cx).is_ready() {
            turn = None;
            if stalled_since.is_some_and(|since| since.elapsed() >= WRITE_LIMIT) {
                tracing::debug!("a client takes nothing of its answer");
                return Polled::Ready(None);
            }
            // While it takes nothing, the client's silence says nothing.
            let deadline = if stalled_since.is_none() { stage.deadline(peer.is_stranger()) } else { None };
            let until = deadline.map(Instant::from_std);
            if until.is_some_and(|until| until <= now) {
                tracing::debug!(client = %peer.address, "closing a connection that was silent or slow for too long");
                return Polled::Ready(None);
            }
            check.as_mut().reset(until.map_or(now + CHECK, |until| until.min(now + CHECK)));
        }
        Polled::Pending
    });
    let waiting: Box<Waiting> = waiting.await?;
    let parts = connection.into_parts();
    let (socket, rest) = parts.io.into_inner().into_parts();
    // Copied: a piece of hyper's buffer would keep the whole of it.
    let before = [&parts.read_buf[..], &rest[..]].concat();
    Some(Taken { socket, before, waiting })
}

/// Waits for the poll's answer and writes it. Returns whether the connection goes on.
async fn parked(shared: &Arc<Shared>, taken: &mut Taken) -> bool {
    tracing::debug!(path = %taken.waiting.poll.path(), "a poll is parked");
    let _parked = shared.app.traffic.parked.hold();
    loop {
        tokio::select! {
            () = taken.waiting.poll.wait() => {}
            // Only one byte: with more to come nobody can tell whether the client is still there.
            next = taken.socket.byte(), if taken.before.is_empty() => match next {
                Some(byte) => {
                    taken.before.push(byte);
                    continue;
                }
                None => return false,
            },
        }
        if let Some(goes_on) = Box::pin(answer_parked(shared, taken)).await {
            return goes_on;
        }
    }
}

/// `None` when there is nothing to say yet.
async fn answer_parked(shared: &Shared, taken: &mut Taken) -> Option<bool> {
    let Waiting { poll, manner, has_begun } = &mut *taken.waiting;
    let answer: Answer = match look_again(&shared.app, poll).await {
        Ok(None) if !poll.takes_beat() => return None,
        Ok(None) => {
            let mut bytes = if *has_begun { Vec::new() } else { beginning(manner, clock::now()) };
            *has_begun = true;
            bytes.extend_from_slice(beat(*manner));
            return if write(&mut taken.socket, &bytes).await { None } else { Some(false) };
        }
        Ok(Some(answer)) => answer,
        Err(_) if *has_begun => poll.nothing(&shared.app),
        Err(problem) => problem.into_answer(),
    };
    tracing::debug!(path = %poll.path(), status = answer.status().as_u16(), "a parked poll is answered");
    shared.app.traffic.count("GET", COMMANDS, answer.status().as_u16());
    let answer = super::finished(&shared.app, answer);
    let bytes = if *has_begun { ending(answer, manner).await } else { bytes_of(answer, manner, clock::now()).await };
    Some(write(&mut taken.socket, &bytes).await && manner.keep_alive)
}

async fn write(socket: &mut Socket, bytes: &[u8]) -> bool {
    let written = timeout(WRITE_LIMIT, async {
        socket.write_all(bytes).await?;
        socket.flush().await
    });
    matches!(written.await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::super::strangers::Strangers;
    use super::*;
    use crate::server::app::App;

    /// What a parked poll costs beside its socket (and TLS session): the task, and what is remembered of the poll.
    #[tokio::test]
    async fn a_parked_polls_task_is_small() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let app = App::open(&dir.path().join("state")).expect("a state directory");
        let shared = Arc::new(Shared { app, routes: crate::server::http::routes() });
        let (sender, mut stranger) = tokio::sync::mpsc::channel(1);
        Strangers::new(1).admit(|stranger| {
            sender.try_send(stranger).expect("room");
            tokio::spawn(async {}).abort_handle()
        });
        let stranger = stranger.recv().await.expect("a stranger");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
        let task = size_of_val(&run(shared, stream, stranger));
        assert!(task <= 640, "the task is {task} bytes");
        assert!(size_of::<Waiting>() <= 256, "a waiting poll is {} bytes", size_of::<Waiting>());
    }
}
