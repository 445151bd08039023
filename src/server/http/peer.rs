//! Edge. What the requests of one connection share: who is at its other end, whether anybody there has shown a valid token or
//! credential, and how many requests there were. Does not check either.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Body as _;

use super::answer::Answer;
use super::stage::Seen;
use super::strangers::Stranger;

/// The other end.
#[derive(Debug)]
pub struct Peer {
    /// Of the socket, which may be a proxy's.
    pub address: IpAddr,
    /// The number of the authority whose certificate it has shown, if it has.
    pub certified_by: Option<u64>,
    /// `None`: it was let in.
    stranger: Mutex<Option<Stranger>>,
    begun: AtomicU64,
    ended: AtomicU64,
    is_streaming: AtomicBool,
}

impl Peer {
    /// `address`: `None` when the socket has none any more.
    pub fn new(address: Option<IpAddr>, certified_by: Option<u64>, stranger: Option<Stranger>) -> Self {
        Self {
            address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            certified_by,
            stranger: Mutex::new(stranger),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            is_streaming: AtomicBool::new(false),
        }
    }

    /// Somebody has shown a valid token or credential.
    pub fn let_in(&self) {
        let stranger = self.stranger().take();
        drop(stranger);
    }

    pub fn is_stranger(&self) -> bool {
        self.stranger().is_some()
    }

    /// A request's head has come.
    pub fn begin(&self) {
        self.is_streaming.store(false, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is there.
    pub fn end(&self, answer: &Answer) {
        self.is_streaming.store(answer.body().size_hint().exact().is_none(), Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// For the stage; `reads` is what the socket knows.
    pub fn seen(&self, reads: u64) -> Seen {
        Seen {
            begun: self.begun.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            reads,
            is_streaming: self.is_streaming.load(Ordering::Relaxed),
        }
    }

    fn stranger(&self) -> MutexGuard<'_, Option<Stranger>> {
        self.stranger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
