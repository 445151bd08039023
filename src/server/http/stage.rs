//! Pure. How far a connection is with its requests, told by what is seen of it from outside, and until when it may be so. The
//! time is an argument. Does not read, write or close.

use std::time::{Duration, Instant};

/// From a request's first byte until its head is whole.
pub const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Silence between requests; the agent uses a connection again within a few seconds or not at all.
pub const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// The same where nobody has shown a valid token or credential yet.
pub const STRANGERS_IDLE_LIMIT: Duration = Duration::from_secs(15);

/// How long a silent connection is kept.
pub fn idle_limit(is_stranger: bool) -> Duration {
    if is_stranger { STRANGERS_IDLE_LIMIT } else { IDLE_LIMIT }
}

/// What is seen of a connection: counts since it was looked at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Heads that were whole.
    pub begun: u64,
    /// Requests whose answer was given to the connection.
    pub ended: u64,
    /// Times that something came.
    pub reads: u64,
    /// The newest answer is one that goes on, as that of a followed log.
    pub is_streaming: bool,
}

/// Where the connection is.
#[derive(Debug)]
pub struct Stage {
    doing: Doing,
    since: Instant,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Idle,
    Head,
    Served,
}

impl Stage {
    /// Some of a head has come.
    pub fn of_a_head(now: Instant) -> Self {
        Self { doing: Doing::Head, since: now, seen: Seen::default() }
    }

    /// Takes in what is seen now.
    pub fn look(&mut self, seen: Seen, now: Instant) {
        let doing = if seen.begun > seen.ended || seen.is_streaming {
            Doing::Served
        } else if seen.ended > self.seen.ended || self.doing == Doing::Served {
            Doing::Idle
        } else if seen.reads > self.seen.reads {
            Doing::Head
        } else {
            self.doing
        };
        if doing != self.doing || seen.ended > self.seen.ended {
            (self.doing, self.since) = (doing, now);
        }
        self.seen = seen;
    }

    /// When it has been like this for too long. Being served has limits of its own.
    pub fn deadline(&self, is_stranger: bool) -> Option<Instant> {
        match self.doing {
            Doing::Idle => Some(self.since + idle_limit(is_stranger)),
            Doing::Head => Some(self.since + HEAD_LIMIT),
            Doing::Served => None,
        }
    }
}

/// What is known of a head from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// More must come.
    Partial,
    /// It is whole, or can never become one: either has an answer.
    Ready,
}

/// Looks at the beginning of a request. `from`: what was looked at before, so that bytes that come one by one cost little.
pub fn head(bytes: &[u8], from: usize) -> Head {
    let line_end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let is_text = line.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\r');
    let names_http = || memchr::memmem::find(line, b" HTTP/").is_some();
    if !is_text || (line_end.is_some() && !names_http()) {
        return Head::Ready;
    }
    let rest = &bytes[from.saturating_sub(3)..];
    let has_end = |end: &[u8]| memchr::memmem::find(rest, end).is_some();
    if has_end(b"\n\r\n") || has_end(b"\n\n") { Head::Ready } else { Head::Partial }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(begun: u64, ended: u64, reads: u64) -> Seen {
        Seen { begun, ended, reads, is_streaming: false }
    }

    /// Until when the stage may be so, in seconds from the beginning.
    fn until(stage: &Stage, start: Instant, is_stranger: bool) -> Option<u64> {
        stage.deadline(is_stranger).map(|at| (at - start).as_secs())
    }

    #[test]
    fn a_head_has_fifteen_seconds_from_its_first_byte_however_often_more_of_it_comes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stage = Stage::of_a_head(start);
        for second in 1..20 {
            stage.look(seen(0, 0, second), at(second));
            assert_eq!(until(&stage, start, false), Some(15));
        }
        stage.look(seen(1, 0, 20), at(20));
        assert_eq!(until(&stage, start, true), None, "it is served");
        stage.look(seen(1, 1, 20), at(30));
        assert_eq!((until(&stage, start, true), until(&stage, start, false)), (Some(45), Some(105)));
        // The next one, after a while.
        stage.look(seen(1, 1, 21), at(50));
        stage.look(seen(1, 1, 22), at(60));
        assert_eq!(until(&stage, start, false), Some(65));
    }

    #[test]
    fn requests_that_are_answered_between_two_looks_begin_the_silence_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stage = Stage::of_a_head(start);
        stage.look(seen(1, 1, 1), at(1));
        stage.look(seen(5, 5, 9), at(40));
        assert_eq!(until(&stage, start, false), Some(115));
    }

    #[test]
    fn a_followed_log_is_no_silence() {
        let start = Instant::now();
        let mut stage = Stage::of_a_head(start);
        stage.look(Seen { is_streaming: true, ..seen(1, 1, 1) }, start);
        assert_eq!(until(&stage, start, true), None);
        stage.look(Seen { is_streaming: true, ..seen(1, 1, 7) }, start + Duration::from_secs(500));
        assert_eq!(until(&stage, start, true), None);
    }

    #[test]
    fn a_head_is_ready_when_it_is_whole_or_can_never_be() {
        let whole = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(head(&whole.as_bytes()[..end], end.saturating_sub(1)), Head::Partial, "{end}");
        }
        for (text, from) in [
            (whole, whole.len() - 1),
            ("GET / HTTP/1.1\nhost: x\n\n", 5),
            ("GET / HTTP/1.0\r\n\r\nmore", 0),
            // TLS where there is none, something else, and an empty line.
            ("\x16\x03\x01", 0),
            ("hello\r\n", 0),
            ("\r\n", 0),
            ("GET /\0", 0),
        ] {
            assert_eq!(head(text.as_bytes(), from), Head::Ready, "{text:?}");
        }
    }
}
