//! Pure. Whether a restic that runs still gets anywhere: signs of progress, and for how long there has been none. Outages hang restic
//! in silence, or with a status line each second that says the same for ever. Does not read output, counters or clocks, nor stop anything.
//!
//! Signs are: a status line with other numbers than the one before; any other line, but for "retrying after" (that is the
//! outage itself) and one that only has another time than the line before ("[0:07] 12.00%  3 / 25 packs"); more bytes read and written than restic's own output explains; and work on a processor. The last two
//! are for prune, check and forget, which print nothing meanwhile, and for a backup that still loads its index; where
//! the system has no such counters, those kinds get four times as long.

use std::time::Duration;

use restic_manager::process::Activity;
use restic_manager::protocol::job_options::JobKind;
use restic_manager::protocol::text::Span;

use crate::restic_json::{Progress, is_retry};

/// Less than this may be requests that nobody answers, and the resolver's files.
const SOME_BYTES: u64 = 64 * 1024;
/// A restic that waits uses some thousandths of a processor: one that works at least this share of it, as a divisor.
const SOME_WORK: u32 = 20;
/// Kinds that print nothing meanwhile, where nothing else can be seen of them.
const UNSEEN: u64 = 4;

/// For how long restic may show no sign of progress. Waiting for a lock is none, so that wait comes on top.
pub(crate) fn limit(no_progress: Span, retry_lock: Span, kind: JobKind, has_counters: bool) -> Span {
    let prints = matches!(kind, JobKind::Backup | JobKind::Restore);
    let times = if prints || has_counters { 1 } else { UNSEEN };
    Span::from_secs(no_progress.as_secs().saturating_mul(times).saturating_add(retry_lock.as_secs()))
}

/// What restic has shown lately.
#[derive(Debug)]
pub(crate) struct Watchdog {
    limit: Duration,
    /// Time without a sign. Counted by looks, so that a host that was asleep does not count it.
    standstill: Duration,
    progress: Option<Progress>,
    /// The last line that was no status, without its time.
    text: String,
    /// Bytes that restic has printed; they are among those that the system counts.
    printed: u64,
    /// Of the last look, and the bytes at the last sign.
    activity: Option<Activity>,
    moved: u64,
}

impl Watchdog {
    pub(crate) fn new(limit: Span) -> Self {
        Self {
            limit: limit.duration(),
            standstill: Duration::ZERO,
            progress: None,
            text: String::new(),
            printed: 0,
            activity: None,
            moved: 0,
        }
    }

    /// How often to look.
    pub(crate) fn interval(&self) -> Duration {
        (self.limit / 20).clamp(Duration::from_millis(250), Duration::from_secs(30))
    }

    /// A line of stdout or stderr came, with this many bytes.
    pub(crate) fn printed(&mut self, bytes: usize) {
        self.printed = self.printed.saturating_add(bytes as u64).saturating_add(1);
    }

    /// The line was a status.
    pub(crate) fn status(&mut self, progress: &Progress) {
        // Time goes on whatever happens, and the rate and the rest of the time are of it.
        let counted = Progress { eta_seconds: None, throughput_bps: None, ..progress.clone() };
        if self.progress.as_ref() != Some(&counted) {
            self.progress = Some(counted);
            self.standstill = Duration::ZERO;
        }
    }

    /// The line was anything else.
    pub(crate) fn text(&mut self, line: &str) {
        let timeless = without_time(line);
        if !is_retry(line) && timeless != self.text {
            timeless.clone_into(&mut self.text);
            self.standstill = Duration::ZERO;
        }
    }

    /// A look after this long since the last one, or since the start: whether there was no sign for too long.
    pub(crate) fn look(&mut self, since_last: Duration, activity: Option<Activity>) -> bool {
        let since_last = since_last.min(self.interval() * 2);
        self.standstill = self.standstill.saturating_add(since_last);
        if let Some(now) = activity {
            let moved = now.bytes.saturating_sub(self.printed);
            let worked = self.activity.map_or(Duration::ZERO, |before| now.processor.saturating_sub(before.processor));
            if moved.abs_diff(self.moved) >= SOME_BYTES || worked > since_last / SOME_WORK {
                self.moved = moved;
                self.standstill = Duration::ZERO;
            }
            self.activity = Some(now);
        }
        self.standstill >= self.limit
    }
}

/// What follows "[0:07] ".
fn without_time(line: &str) -> &str {
    let is_time = |time: &str| time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if is_time(time) => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn dog() -> Watchdog {
        Watchdog::new(Span::from_secs(600))
    }

    /// Looks for so long, feeding before each look; when it struck.
    fn strikes(
        dog: &mut Watchdog,
        minutes: u32,
        mut feed: impl FnMut(&mut Watchdog, u32) -> Option<Activity>,
    ) -> Option<u32> {
        (1..=minutes * 2).find(|half| {
            let activity = feed(dog, *half);
            dog.look(MINUTE / 2, activity)
        })
    }

    fn activity(bytes: u64, millis: u64) -> Option<Activity> {
        Some(Activity { bytes, processor: Duration::from_millis(millis) })
    }

    #[test]
    fn silence_is_a_standstill_after_the_limit() {
        assert_eq!(strikes(&mut dog(), 60, |_, _| None), Some(20));
    }

    #[test]
    fn a_status_that_says_the_same_each_second_is_no_progress_and_other_numbers_are() {
        let same = Progress { bytes_done: Some(5), ..Progress::default() };
        let struck = strikes(&mut dog(), 60, |dog, half| {
            let eta = Some(u64::from(half));
            dog.status(&Progress { eta_seconds: eta, throughput_bps: eta, ..same.clone() });
            None
        });
        // The first one is news.
        assert_eq!(struck, Some(20));
        let struck = strikes(&mut dog(), 60, |dog, half| {
            dog.status(&Progress { bytes_done: Some(u64::from(half)), ..Progress::default() });
            None
        });
        assert_eq!(struck, None);
    }

    #[test]
    fn lines_are_signs_unless_they_only_tell_of_another_try() {
        let retry = "Save(<data/ff48>) returned error, retrying after 2.8s: Post \"http://h/\": connection refused";
        let said = |say: &dyn Fn(u32) -> String| {
            strikes(&mut dog(), 60, |dog, half| {
                dog.text(&say(half));
                None
            })
        };
        assert_eq!(said(&|_| retry.to_owned()), Some(20));
        assert_eq!(said(&|half| format!("[0:{half:02}] 12.00%  3 / 25 packs")), Some(20), "only the time goes on");
        assert_eq!(said(&|half| format!("[0:07] 12.00%  {half} / 25 packs")), None);
    }

    #[test]
    fn what_is_read_and_written_or_computed_is_a_sign_and_what_is_only_printed_is_not() {
        let moved = |bytes: u64, millis: u64, printed: usize| {
            strikes(&mut dog(), 60, |dog, half| {
                dog.printed(printed);
                activity(u64::from(half) * bytes, u64::from(half) * millis)
            })
        };
        assert_eq!(moved(100_000, 0, 0), None);
        assert_eq!(moved(0, 15_000, 0), None);
        assert_eq!(moved(10_000, 0, 0), None, "slowly is progress too");
        assert_eq!(moved(1000, 100, 0), Some(20), "a request now and then");
        assert_eq!(moved(100_001, 100, 100_000), Some(20), "only its own output");
    }

    #[test]
    fn a_host_that_slept_has_not_stood_still() {
        let mut dog = dog();
        assert!(!dog.look(MINUTE * 600, None));
        assert!(!dog.look(MINUTE * 600, None));
    }

    #[test]
    fn whoever_waits_for_a_lock_or_cannot_be_seen_gets_longer() {
        let (half_hour, ten) = (Span::from_secs(1800), Span::from_secs(600));
        assert_eq!(limit(half_hour, ten, JobKind::Backup, false), Span::from_secs(2400));
        assert_eq!(limit(half_hour, Span::default(), JobKind::Prune, true), half_hour);
        assert_eq!(limit(half_hour, Span::default(), JobKind::Prune, false), Span::from_secs(7200));
    }
}
