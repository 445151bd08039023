//! P1: no 2xx reply is written before the fdatasync of the file that got its lines has returned, by strace's word.

use std::time::Duration;

use crate::count;
use crate::faults::{Strace, has, lied_to};
use crate::harness::eventually;
use crate::poster::while_posting;
use crate::station::Station;
use crate::timeline::{self, CALLS, Timeline};

#[test]
fn p1_no_reply_is_sent_before_the_sync_of_its_lines_has_returned() {
    if !has("p1_no_reply_is_sent_before_the_sync_of_its_lines_has_returned", &["strace", "cc"]) {
        return;
    }
    let wanted = count(200, 1000);
    let seen = traced(Station::started(4, Vec::new()).with_logs(), wanted);
    assert!(seen.replies >= wanted && seen.syncs > 0, "{} replies, {} syncs", seen.replies, seen.syncs);
    assert!(seen.false_replies.is_empty(), "P1: {:#?}", seen.false_replies);
    // The control: syncs that do nothing are no syncs to strace, and every reply comes before its own.
    let control = traced(Station::started(4, lied_to("nosync")), 50);
    assert!(
        control.false_replies.len() >= 50,
        "the control passed: {} of {}",
        control.false_replies.len(),
        control.replies
    );
    eprintln!(
        "P1 order: {} replies, {} syncs, 0 replies before their sync; the control: {}",
        seen.replies,
        seen.syncs,
        control.false_replies.len()
    );
}

/// What strace sees of a server until so many events have been acknowledged.
fn traced(mut station: Station, wanted: usize) -> Timeline {
    let mut posters = std::mem::take(&mut station.posters);
    let counts: Vec<_> = posters.iter().map(|poster| std::sync::Arc::clone(&poster.acked)).collect();
    let acked = || counts.iter().map(|count| count.load(std::sync::atomic::Ordering::SeqCst)).sum::<u64>();
    let server = station.fleet.server.as_ref().expect("a server");
    let strace = Strace::attach(server.id(), &station.fleet.path("strace"), &["-e", CALLS]);
    while_posting(&mut posters, || {
        // A request brings three events at most.
        let enough = 3 * wanted as u64;
        eventually("enough is acknowledged", Duration::from_secs(120), || (acked() >= enough).then_some(()));
    });
    let seen = timeline::read(&strace.end());
    station.posters = posters;
    station.checked_end("P1");
    seen
}
