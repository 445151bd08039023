//! P1: an event that was answered 2xx is there after kill -9 of the server, once and as it was sent.

use std::time::{Duration, Instant};

use crate::count;
use crate::poster::while_posting;
use crate::station::Station;

/// So many kills of one history; the next ones begin with an empty one, so that checking stays cheap.
const KILLS_OF_A_LIFE: usize = 50;
const HOSTS: usize = 6;

#[test]
fn p1_a_killed_server_loses_and_doubles_nothing_that_it_acknowledged() {
    let kills = count(25, 1000);
    let began = Instant::now();
    let (mut left, mut events, mut lines) = (kills, 0, 0);
    while left > 0 {
        let mut station = Station::started(HOSTS, Vec::new()).with_logs();
        for kill in 0..left.min(KILLS_OF_A_LIFE) {
            if kill > 0 {
                station.start();
            }
            let mut posters = std::mem::take(&mut station.posters);
            while_posting(&mut posters, || {
                // From the midst of the first requests to a few hundred later.
                std::thread::sleep(Duration::from_millis(5 + (kill as u64 * 37) % 120));
                station.kill();
            });
            for poster in &mut posters {
                poster.begin_anew_from(poster.acked());
            }
            station.posters = posters;
        }
        left -= left.min(KILLS_OF_A_LIFE);
        station.start();
        lines += station.checked_end("P1");
        events += station.acked().iter().sum::<u64>();
        if left == 0 {
            the_check_sees_what_is_gone_or_doubled(&station);
        }
    }
    assert!(events > kills as u64, "the posters got on: {events}");
    eprintln!(
        "P1 kill -9: {kills} kills, {events} events acknowledged, {lines} lines, 0 lost, 0 twice, {:.0?}",
        began.elapsed()
    );
}

/// The control: the same check, of the same files with the last acknowledged line taken out, and with it written twice.
fn the_check_sees_what_is_gone_or_doubled(station: &Station) {
    let journal = station.state().join("hosts/web-1/journal");
    let segment = crate::checker::segments(&journal).pop().expect("a segment");
    let text = std::fs::read_to_string(&segment).expect("a segment");
    let acked = station.acked();
    let last = text.trim_end().rfind('\n').expect("two lines") + 1;
    std::fs::write(&segment, &text[..last]).expect("write");
    assert_eq!(station.missing(&acked), [format!("web-1: event {} is lost", acked[0])]);
    std::fs::write(&segment, format!("{text}{}", &text[last..])).expect("write");
    assert_eq!(station.missing(&acked), [format!("web-1: event {} is there 2 times", acked[0])]);
    let checked = std::thread::spawn(move || crate::checker::check_history(&journal).lines);
    assert!(checked.join().is_err(), "the checker sees it too");
}
