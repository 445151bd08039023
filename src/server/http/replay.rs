//! Edge. A stream with bytes that are read before its own: what was taken from it too early is put back in front. Also knows
//! since when the other side takes nothing of what is written, and how often something came from it. Does not know HTTP.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What whoever watches a stream sees of it.
#[derive(Debug, Default)]
pub struct Stalled {
    /// Since when writing stands still; `None`: everything that was written has gone out.
    since: Mutex<Option<Instant>>,
    reads: AtomicU64,
}

impl Stalled {
    pub fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something came, what was put back not counted.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn note<T>(&self, polled: &Poll<T>) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match polled {
            Poll::Ready(_) => *since = None,
            Poll::Pending => *since = since.or_else(|| Some(Instant::now())),
        }
    }
}

/// The stream, with the bytes in front.
#[derive(Debug)]
pub struct Replay<S> {
    stream: S,
    /// In the order in which they came.
    before: Vec<u8>,
    /// How much of `before` was read again.
    read: usize,
    stalled: Arc<Stalled>,
}

impl<S> Replay<S> {
    pub fn new(stream: S, before: Vec<u8>) -> Self {
        Self { stream, before, read: 0, stalled: Arc::default() }
    }

    /// For whoever watches that writing goes on.
    pub fn stalled(&self) -> Arc<Stalled> {
        Arc::clone(&self.stalled)
    }

    /// The stream, and what was not read again.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.before.drain(..self.read);
        (self.stream, self.before)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.before.get(this.read..).unwrap_or_default();
        if rest.is_empty() {
            let filled = buf.filled().len();
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            if buf.filled().len() > filled {
                this.stalled.reads.fetch_add(1, Ordering::Relaxed);
            }
            return polled;
        }
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        this.read += taken;
        if this.read == this.before.len() {
            (this.before, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.stalled.note(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.stalled.note(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.stalled.note(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.stalled.note(&polled);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn what_was_put_back_is_read_first_in_pieces_of_any_size_and_then_the_stream() {
        for size in [1, 2, 3, 5, 100] {
            let (mut far, near) = duplex(64);
            far.write_all(b"defg").await.expect("write");
            drop(far);
            let mut replay = Replay::new(near, b"abc".to_vec());
            let (mut all, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                let count = replay.read(&mut piece).await.expect("read");
                if count == 0 {
                    break;
                }
                all.extend_from_slice(&piece[..count]);
            }
            assert_eq!(all, b"abcdefg", "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_was_not_read_again_is_given_back() {
        let (_far, near) = duplex(64);
        let mut replay = Replay::new(near, b"abcd".to_vec());
        replay.read_exact(&mut [0; 3]).await.expect("read");
        assert_eq!(replay.into_parts().1, b"d");
    }

    #[tokio::test]
    async fn what_comes_is_counted_and_what_was_put_back_is_not() {
        let (mut far, near) = duplex(64);
        let mut replay = Replay::new(near, b"ab".to_vec());
        let stalled = replay.stalled();
        replay.read_exact(&mut [0; 2]).await.expect("read");
        assert_eq!(stalled.reads(), 0);
        far.write_all(b"c").await.expect("write");
        replay.read_exact(&mut [0; 1]).await.expect("read");
        drop(far);
        assert_eq!(replay.read(&mut [0; 1]).await.expect("the end"), 0);
        assert_eq!(stalled.reads(), 1);
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_noticed_until_it_takes_something() {
        let (mut far, near) = duplex(4);
        let mut replay = Replay::new(near, Vec::new());
        let stalled = replay.stalled();
        replay.write_all(b"1234").await.expect("write");
        assert_eq!(stalled.since(), None);
        let mut more = Box::pin(replay.write_all(b"5678"));
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), more.as_mut()).await;
        assert!(waits.is_err() && stalled.since().is_some());
        far.read_exact(&mut [0; 4]).await.expect("read");
        more.await.expect("write");
        assert_eq!(stalled.since(), None);
    }
}
