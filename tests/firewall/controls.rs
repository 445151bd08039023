//! That the rows could fail: the firewall is one, and what judges the commands finds what is lost or doubled.

use std::process::Output;

use serde_json::{Value, json};

use crate::alone::row;
use crate::authority::CA_FILE;
use crate::checker::{check_history, segments};
use crate::harness::text;
use crate::judge::complaints;
use crate::proxies::{Rule, squid};
use crate::scene::{Scene, through_the_proxy};
use crate::space::{PROXY_ADDRESS, Place, SERVER_ADDRESS, SERVER_NAME, SERVER_PORT};

#[test]
fn only_the_proxy_can_be_reached_from_the_agents_place() {
    row(only_the_proxy_can_be_reached_from_the_agents_place, &["squid"], |space| {
        let scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        let authority = scene.fleet.path(CA_FILE);
        let url = format!("https://{SERVER_NAME}:{SERVER_PORT}/readyz");
        let curl = |place: Place, more: &[&str]| -> Output {
            space.output(place, "curl", &[&["-sS", "-m", "4", "--cacert", text(&authority)], more].concat())
        };
        let code = |output: &Output| output.status.code();
        assert_eq!(code(&curl(Place::Agent, &[&url])), Some(7), "not the server itself");
        let proxy = format!("http://{PROXY_ADDRESS}:3128");
        let through = curl(Place::Agent, &["-x", &proxy, &url]);
        assert_eq!(code(&through), Some(0), "{}", String::from_utf8_lossy(&through.stderr));
        // Nor anything else of the edge's, or beyond it; names neither.
        for other in ["http://192.168.61.1:22/", "http://192.168.62.1:3128/", "http://192.0.2.1/"] {
            assert_eq!(code(&curl(Place::Agent, &[other])), Some(7), "{other}");
        }
        assert_eq!(code(&curl(Place::Agent, &["http://www.example.org/"])), Some(6), "no name is looked up");
        // It is the firewall that bars the way: the edge's own reach the server, and with the way open so does the agent's.
        assert_eq!(code(&curl(Place::Edge, &[&url])), Some(0));
        space.open_the_direct_way();
        assert_eq!(code(&curl(Place::Agent, &[&url])), Some(0));
        let plain = format!("http://{SERVER_ADDRESS}:22/");
        assert_eq!(code(&curl(Place::Agent, &[&plain])), Some(7), "and only to the one port");
    });
}

#[test]
fn a_command_that_is_lost_or_run_twice_is_found() {
    let line = |kind: &str, id: &str| json!({"type": kind, "payload": {"job_id": id}});
    let life = |id: &str| ["job.queued", "job.started", "job.finished"].map(|kind| line(kind, id));
    let good: Vec<Value> = [life("a"), life("b")].concat();
    let ids = ["a".to_owned(), "b".to_owned()];
    assert_eq!(complaints(&good, &ids), [""; 0]);
    for at in 0..good.len() {
        let (mut lost, mut doubled) = (good.clone(), good.clone());
        lost.remove(at);
        doubled.push(good[at].clone());
        assert_eq!(complaints(&lost, &ids).len(), 1, "{lost:?}");
        assert_eq!(complaints(&doubled, &ids).len(), 1, "{doubled:?}");
    }
    assert_eq!(complaints(&good, &ids[..1]).len(), 3, "b is nobody's");
    assert_eq!(complaints(&good[..3], &ids).len(), 3, "b is gone without a trace");
}

#[test]
fn a_journal_with_a_line_lost_or_doubled_is_found() {
    row(a_journal_with_a_line_lost_or_doubled_is_found, &["squid"], |space| {
        let mut scene = Scene::new(space);
        let _squid = squid(space, &scene.fleet, Rule::Anyone);
        scene.write_settings(&through_the_proxy(""), CA_FILE);
        scene.enroll();
        scene.start_agent();
        (0..3).for_each(|_| scene.quick_job());
        scene.ends_well();
        let journal = scene.fleet.path("state/hosts/web-1/journal");
        let segment = segments(&journal).pop().expect("a segment");
        let whole = std::fs::read_to_string(&segment).expect("read");
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let of = |kind: &str| lines.iter().position(|line| line.contains(kind)).expect("it is there");
        for (kind, times) in [("job.started", 0), ("job.started", 2), ("job.finished", 0), ("job.finished", 2)] {
            let at = of(&format!("\"{kind}\""));
            let repeated = lines[at].repeat(times);
            let doctored = [&lines[..at], &[&*repeated], &lines[at + 1..]].concat();
            std::fs::write(&segment, doctored.concat()).expect("written");
            assert_eq!(complaints(&scene.fleet.journal(), &scene.jobs).len(), 1, "{kind} {times} times");
            let checked = std::panic::catch_unwind(|| check_history(&journal).lines);
            assert!(checked.is_err(), "{kind} {times} times is nothing to the checker");
        }
    });
}
