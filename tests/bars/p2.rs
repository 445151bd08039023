//! P2: a failed fsync is never retried into success. strace makes the Nth fdatasync of every thread fail, and the next one or
//! two, which open the segment that makes up for it; what was to be made durable by them is acknowledged only when it was
//! written anew and synced, and the host is served again at once.

use std::time::{Duration, Instant};

use crate::count;
use crate::faults::{Strace, has, lied_to};
use crate::harness::eventually;
use crate::poster::while_posting;
use crate::station::Station;
use crate::timeline::{self, CALLS, Timeline};

const HOSTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn p2_a_failed_sync_is_never_retried_into_success() {
    if !has("p2_a_failed_sync_is_never_retried_into_success", &["strace", "cc"]) {
        return;
    }
    let began = Instant::now();
    let (mut failed, mut replies, mut longest) = (0, 0, Duration::ZERO);
    // (N, how many more fail)
    let full = (1..=50).flat_map(|nth| [(nth, 0), (nth, 1 + nth % 2)]).collect();
    let faults: Vec<(usize, usize)> =
        if count(0, 1) == 1 { full } else { vec![(1, 0), (1, 1), (2, 2), (3, 0), (7, 1), (50, 0)] };
    for (nth, more) in faults {
        let mut station = Station::started(HOSTS, Vec::new()).with_logs();
        let seen = with_failing_syncs(&mut station, nth, more);
        assert!(seen.failed_syncs > 0 && seen.replies > 0, "P2, N = {nth} + {more}: strace saw nothing");
        assert!(seen.false_replies.is_empty(), "P2, N = {nth} + {more}: {:#?}", seen.false_replies);
        let refused: u64 = station.posters.iter().flat_map(|poster| poster.refused.values()).sum();
        assert!(refused > 0, "P2, N = {nth} + {more}: {} syncs failed, and nobody was told", seen.failed_syncs);
        let slowest = station.posters.iter().map(|poster| poster.longest_refusal).max().unwrap_or_default();
        assert!(slowest < PATIENCE, "P2, N = {nth} + {more}: not served again for {slowest:?}");
        (failed, replies, longest) = (failed + seen.failed_syncs, replies + seen.replies, longest.max(slowest));
        station.checked_end(&format!("P2, N = {nth} + {more}"));
        // A server started on what the failures have left knows the same.
        station.start();
        station.checked_end(&format!("P2, N = {nth} + {more}, started again"));
    }
    // The control: the kernel fails the same syncs, and the shim says that they did not.
    let mut station = Station::started(HOSTS, lied_to("swallow"));
    let control = with_failing_syncs(&mut station, 2, 0);
    assert!(!control.false_replies.is_empty(), "the control passed: {} syncs failed", control.failed_syncs);
    eprintln!(
        "P2: {failed} failed syncs, {replies} replies, 0 false, served again within {longest:.0?}, {:.0?}; the control: {} false",
        began.elapsed(),
        control.false_replies.len()
    );
}

/// Posts until the Nth fdatasync of a thread has failed and every host has got on after that.
fn with_failing_syncs(station: &mut Station, nth: usize, more: usize) -> Timeline {
    let mut posters = std::mem::take(&mut station.posters);
    let counts: Vec<_> = posters.iter().map(|poster| std::sync::Arc::clone(&poster.acked)).collect();
    let acked = || counts.iter().map(|count| count.load(std::sync::atomic::Ordering::SeqCst)).collect::<Vec<_>>();
    let inject = format!("inject=fdatasync:error=EIO:when={nth}..{}", nth + more);
    let server = station.fleet.server.as_ref().expect("a server");
    let log = station.fleet.path("strace");
    let strace = Strace::attach(server.id(), &log, &["-e", CALLS, "-e", &inject]);
    while_posting(&mut posters, || {
        let injected = || strace.text().contains("(INJECTED)").then_some(());
        eventually("a sync fails", Duration::from_secs(60), injected);
        let then = acked();
        eventually("every host gets on", PATIENCE * 2, || {
            acked().iter().zip(&then).all(|(now, then)| *now >= then + 6).then_some(())
        });
    });
    let server = station.fleet.server.as_mut().expect("a server");
    assert!(server.is_running(), "P2, N = {nth} + {more}: the server ended");
    station.posters = posters;
    for poster in &mut station.posters {
        poster.end_the_job();
    }
    timeline::read(&strace.end())
}
