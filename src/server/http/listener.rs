//! Edge. The listening socket: a long queue for clients that come together, a task for each connection, and the end of all of
//! them. Does not read from any.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::strangers::{Strangers, fair_share, most_connections};
use super::{Shared, connection, socket};
use crate::server::app::{App, stopped};

/// Connections that wait to be accepted. The system cuts it to its own limit (net.core.somaxconn); past that, a client's first
/// packet is dropped and sent again after a second.
const BACKLOG: u32 = 65_535;
/// Everything that is open ends within this at shutdown.
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
/// Out of descriptors: when to try again, and how often to say so.
const RETRY: Duration = Duration::from_millis(100);
const SHORT_RETRY: Duration = Duration::from_millis(1);
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Binds and listens.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // On Windows it would let another program take the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `app.stopping` is true, then drains. The caller binds, so that tests use port 0.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let mut stopping = app.stopping.subscribe();
    let shared = Arc::new(Shared { app: Arc::clone(&app), routes: super::routes() });
    let strangers = Strangers::new(fair_share());
    // Every connection holds a sender: when all are gone, so are the connections.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let most = most_connections();
    let (mut said, mut said_full) = (None, None);
    loop {
        // One of them is ours.
        let has_room = open.strong_count() <= most;
        let accepted = tokio::select! {
            accepted = listener.accept(), if has_room => accepted,
            () = std::future::ready(()), if !has_room => Err(full(most)),
            () = stopped(&mut stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = socket::set_options(&stream) {
                    tracing::debug!(%error, "a client went away before it was served");
                    continue;
                }
                let (shared, open) = (Arc::clone(&shared), (open.clone(), app.traffic.connections.hold()));
                let is_full = strangers.admit(|stranger| {
                    let connection = async move {
                        connection::run(shared, stream, stranger).await;
                        drop(open);
                    };
                    tokio::spawn(connection).abort_handle()
                });
                if is_full {
                    tell_full(&mut said_full);
                }
            }
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                // Who has shown nothing goes first, and its descriptor is free in a moment; else connections have to end.
                let wait = if strangers.close_oldest() {
                    tell_full(&mut said_full);
                    SHORT_RETRY
                } else {
                    if is_due(&mut said) {
                        tracing::warn!(%error, "cannot accept clients at the moment: they wait");
                    }
                    RETRY
                };
                tokio::time::sleep(wait).await;
            }
        }
    }
    drop(listener);
    // The parked polls look again, and see that the server stops.
    app.hosts().iter().for_each(|host| host.slot.wake());
    let count = open.downgrade();
    drop(open);
    if tokio::time::timeout(DRAIN_LIMIT, all_closed.recv()).await.is_err() {
        tracing::warn!(connections = count.strong_count(), "closing connections that did not end by themselves");
    }
}

fn tell_full(said: &mut Option<Instant>) {
    if is_due(said) {
        tracing::warn!("many connections on which nobody shows a token: the oldest are closed for new ones");
    }
}

fn full(most: usize) -> io::Error {
    io::Error::other(format!(
        "there are {most} connections, which is all that the limit of descriptors allows (ulimit -n, LimitNOFILE=)"
    ))
}

/// Whether it is time to say something again.
fn is_due(said: &mut Option<Instant>) -> bool {
    let is_due = said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
    if is_due {
        *said = Some(Instant::now());
    }
    is_due
}

/// The client went away between its first packet and being accepted; the next one is not concerned.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clients_own_error_is_passed_over() {
        assert!(is_of_one_client(&io::ErrorKind::ConnectionAborted.into()));
        // EMFILE.
        assert!(!is_of_one_client(&io::Error::from_raw_os_error(24)));
    }
}
