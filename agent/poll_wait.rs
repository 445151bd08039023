//! Pure. How long the agent lets a poll wait, as it has learned it: what stands between it and the server may cut silent
//! connections, and does not say so (protocol.md "Timing"). Does not poll, and does not keep itself.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A poll that ends sooner was not cut for its silence.
pub(crate) const SHORTEST_SILENCE: Duration = Duration::from_secs(5);
/// No poll waits for less, in seconds.
const SHORTEST_WAIT_SECS: u64 = 10;
/// How often the server is asked to say something, in seconds.
const KEEPALIVE_SECS: u64 = 5;
/// After this without a cut, a step back is tried.
const CREEP_BACK: TimeDelta = TimeDelta::days(1);

/// What was learned; `poll_wait.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PollWait {
    /// The server is asked to send a newline every few seconds.
    #[serde(default)]
    keepalive: bool,
    /// The longest wait that is tried, in seconds; absent: as long as the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longest_secs: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed_at: Option<DateTime<Utc>>,
    /// After how much silence the last cut came, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_cut_secs: Option<u64>,
    /// One cut may be the server's own end; two in a row are not. Not kept.
    #[serde(skip)]
    is_suspicious: bool,
}

/// How the next poll asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) wait_secs: u64,
    pub(crate) keepalive_secs: Option<u64>,
}

impl PollWait {
    /// How to ask, where the server says to wait for `server_secs`.
    pub(crate) fn ask(&self, server_secs: u64) -> Ask {
        let wait_secs = self.longest_secs.map_or(server_secs, |longest| longest.min(server_secs));
        Ask { wait_secs, keepalive_secs: self.keepalive.then_some(KEEPALIVE_SECS) }
    }

    /// A poll got its answer after so long. One that waited shows that the way bears that much silence.
    pub(crate) fn answered(&mut self, after: Duration) {
        if after >= SHORTEST_SILENCE {
            self.is_suspicious = false;
        }
    }

    /// A poll had no answer of the server's, and ended after so long. True: something was learned, which is to be kept.
    pub(crate) fn cut(&mut self, ask: Ask, after: Duration, now: DateTime<Utc>) -> bool {
        if after < SHORTEST_SILENCE {
            return false;
        }
        if !std::mem::replace(&mut self.is_suspicious, true) {
            return false;
        }
        // A way that forgets connections silently is noticed at the poll's own end only.
        let silence = after.as_secs().min(ask.wait_secs);
        self.last_cut_secs = Some(silence);
        self.changed_at = Some(now);
        if ask.keepalive_secs.is_none() {
            self.keepalive = true;
        } else {
            self.longest_secs = Some((silence * 7 / 10).max(SHORTEST_WAIT_SECS).min(ask.wait_secs));
        }
        true
    }

    /// A cut is what is to be expected here, so it is no reason to wait long before the next poll.
    pub(crate) fn expects_cuts(&self) -> bool {
        self.longest_secs.is_some_and(|longest| longest <= SHORTEST_WAIT_SECS)
    }

    /// Goes one step back towards the server's own wait, once a day: the way may have changed. True: it did.
    pub(crate) fn creep_back(&mut self, server_secs: u64, now: DateTime<Utc>) -> bool {
        let is_due = self.changed_at.is_some_and(|at| now - at >= CREEP_BACK);
        if !is_due || (!self.keepalive && self.longest_secs.is_none()) {
            return false;
        }
        self.changed_at = Some(now);
        match self.longest_secs {
            Some(longest) => self.longest_secs = Some(longest * 3 / 2).filter(|longer| *longer < server_secs),
            None => self.keepalive = false,
        }
        true
    }

    /// For people.
    pub(crate) fn describe(&self, server_secs: u64) -> String {
        let Ask { wait_secs, keepalive_secs } = self.ask(server_secs);
        let cut = self
            .last_cut_secs
            .map_or(String::new(), |secs| format!(" (something on the way cut it after {secs} s of silence)"));
        match keepalive_secs {
            None => format!("waits {wait_secs} s"),
            Some(every) => format!("waits {wait_secs} s, with a sign of life every {every} s{cut}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: u64 = 30;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(days)
    }

    /// Lets polls be cut after so many seconds of silence until none is any more.
    fn learn(learned: &mut PollWait, silence: u64, does_keepalive_help: bool) -> usize {
        for cuts in 0..20 {
            let ask = learned.ask(SERVER);
            let is_cut = ask.wait_secs > silence && !(does_keepalive_help && ask.keepalive_secs.is_some());
            if !is_cut {
                learned.answered(Duration::from_secs(ask.wait_secs));
                return cuts;
            }
            learned.cut(ask, Duration::from_secs(silence), at(0));
        }
        unreachable!("it never gets through: {learned:?}")
    }

    #[test]
    fn one_cut_teaches_nothing_and_the_second_in_a_row_asks_for_signs_of_life() {
        let mut learned = PollWait::default();
        let ask = learned.ask(SERVER);
        assert!(!learned.cut(ask, Duration::from_secs(8), at(0)));
        learned.answered(Duration::from_secs(30));
        assert!(!learned.cut(ask, Duration::from_secs(8), at(0)), "a full wait came between");
        learned.answered(Duration::from_secs(1));
        assert!(!learned.cut(ask, Duration::from_secs(4), at(0)), "that is no silence");
        assert!(learned.cut(ask, Duration::from_secs(8), at(0)));
        assert_eq!(learned.ask(SERVER), Ask { wait_secs: 30, keepalive_secs: Some(5) });
        assert!(learned.describe(SERVER).contains("cut it after 8 s"), "{}", learned.describe(SERVER));
    }

    #[test]
    fn where_signs_of_life_help_the_wait_stays_as_it_is() {
        let mut learned = PollWait::default();
        assert_eq!(learn(&mut learned, 8, true), 2);
        assert_eq!(learned.ask(SERVER).wait_secs, 30);
    }

    #[test]
    fn where_they_do_not_help_the_wait_shrinks_until_it_gets_through() {
        let mut learned = PollWait::default();
        assert_eq!(learn(&mut learned, 20, false), 3);
        assert_eq!(learned.ask(SERVER).wait_secs, 14);
        assert!(!learned.expects_cuts());
    }

    #[test]
    fn a_silent_end_counts_as_the_wait_and_no_more() {
        let mut learned = PollWait { keepalive: true, is_suspicious: true, ..PollWait::default() };
        let ask = learned.ask(SERVER);
        assert!(learned.cut(ask, Duration::from_secs(48), at(0)));
        assert_eq!(learned.ask(SERVER).wait_secs, 21);
        for _ in 0..9 {
            let ask = learned.ask(SERVER);
            learned.cut(ask, Duration::from_secs(6), at(0));
        }
        assert_eq!(learned.ask(SERVER).wait_secs, 10, "and never below ten seconds");
        assert!(learned.expects_cuts());
    }

    #[test]
    fn each_day_goes_one_step_back() {
        let mut learned = PollWait::default();
        learn(&mut learned, 20, false);
        assert!(!learned.creep_back(SERVER, at(0)));
        assert!(learned.creep_back(SERVER, at(1)));
        assert_eq!(learned.ask(SERVER), Ask { wait_secs: 21, keepalive_secs: Some(5) });
        assert!(!learned.creep_back(SERVER, at(1)));
        assert!(learned.creep_back(SERVER, at(2)) && learned.creep_back(SERVER, at(3)));
        assert_eq!(learned, PollWait { changed_at: Some(at(3)), last_cut_secs: Some(20), ..PollWait::default() });
        assert!(!learned.creep_back(SERVER, at(9)));
    }

    #[test]
    fn what_is_kept_is_read_back_and_older_files_too() {
        let mut learned = PollWait::default();
        learn(&mut learned, 20, false);
        let text = serde_json::to_string(&learned).expect("JSON");
        let read: PollWait = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read.ask(SERVER), learned.ask(SERVER));
        assert_eq!(serde_json::from_str::<PollWait>("{}").expect("JSON"), PollWait::default());
    }
}
