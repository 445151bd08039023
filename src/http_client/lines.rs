//! Edge. An answer that is read line by line while it is being made. Does not know what a line means.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{ClientError, Hop};

/// Longest line, in bytes.
const LINE_LIMIT_BYTES: usize = 1024 * 1024;

/// The lines of one answer. Ends after its first error.
#[derive(Debug)]
pub struct Lines {
    /// `None` at the end.
    body: Option<Incoming>,
    idle: Duration,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer, and up to where it is known to have no end.
    start: usize,
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Incoming, idle: Duration) -> Self {
        Self { body: Some(body), idle, buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// The next line without its end; blank ones, which keep a connection alive, are left out. Cancel-safe.
    pub async fn next_line(&mut self) -> Option<Result<String, ClientError>> {
        loop {
            while let Some(line) = self.buffered_line() {
                if !line.trim().is_empty() {
                    return Some(Ok(line));
                }
            }
            if self.buffer.len() > LINE_LIMIT_BYTES {
                return self.fail(ClientError::TooLarge { limit: LINE_LIMIT_BYTES });
            }
            let body = self.body.as_mut()?;
            match tokio::time::timeout(self.idle, body.frame()).await {
                Err(_) => return self.fail(ClientError::Timeout { what: "nothing new", after: self.idle }),
                Ok(Some(Ok(frame))) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Ok(Some(Err(error))) => {
                    let source = Box::new(error);
                    return self.fail(ClientError::Unreachable {
                        hop: Hop::Answer,
                        server: "the server".into(),
                        proxy: None,
                        source,
                    });
                }
                Ok(None) => {
                    self.body = None;
                    (self.start, self.searched) = (0, 0);
                    let rest = String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned();
                    return (!rest.trim().is_empty()).then_some(Ok(rest));
                }
            }
        }
    }

    fn fail(&mut self, error: ClientError) -> Option<Result<String, ClientError>> {
        self.body = None;
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
        Some(Err(error))
    }

    fn buffered_line(&mut self) -> Option<String> {
        match memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            Some(offset) => {
                let end = self.searched + offset;
                let line = String::from_utf8_lossy(&self.buffer[self.start..end]).into_owned();
                (self.start, self.searched) = (end + 1, end + 1);
                Some(line)
            }
            None => {
                // Moved once per chunk, not once per line.
                self.buffer.drain(..self.start);
                (self.start, self.searched) = (0, self.buffer.len());
                None
            }
        }
    }
}
