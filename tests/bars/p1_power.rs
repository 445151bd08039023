//! P1: an event that was answered 2xx is on disk after power loss. The state directory is an ext4 or XFS image, which is cut off
//! while agents post: what was not synced is gone, as with the power. Compared with what was acknowledged before the cut.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::count;
use crate::faults::{Mount, Strace, in_a_mount_namespace, lied_to, run};
use crate::harness::text;
use crate::poster::while_posting;
use crate::station::Station;

/// So many cuts of one image; the next ones begin with an empty one, so that checking stays cheap.
const CUTS_OF_A_LIFE: usize = 25;
const HOSTS: usize = 4;

#[test]
fn p1_power_loss_loses_nothing_that_was_acknowledged_on_ext4() {
    let name = "p1_power::p1_power_loss_loses_nothing_that_was_acknowledged_on_ext4";
    in_a_mount_namespace(name, &["mkfs.ext4", "xfs_io", "strace", "cc"], || bar(&["mkfs.ext4", "-q", "-F"], 64));
}

#[test]
fn p1_power_loss_loses_nothing_that_was_acknowledged_on_xfs() {
    let name = "p1_power::p1_power_loss_loses_nothing_that_was_acknowledged_on_xfs";
    // Newer XFS is never smaller than 300 MiB; the image has holes.
    in_a_mount_namespace(name, &["mkfs.xfs", "xfs_io", "strace", "cc"], || bar(&["mkfs.xfs", "-q", "-f"], 320));
}

fn bar(mkfs: &[&str], mib: u64) {
    let cuts = count(4, 200);
    let began = Instant::now();
    let (mut left, mut events, mut lines) = (cuts, 0, 0);
    while left > 0 {
        let of_this_life = left.min(CUTS_OF_A_LIFE);
        let mut disk = Disk::started(mkfs, mib, Vec::new());
        for cut in 0..of_this_life {
            let after = Duration::from_millis(20 + (cut as u64 * 53) % 200);
            let lost = if cut % 2 == 0 { disk.lost_by_a_cut(after) } else { disk.lost_by_a_kill_and_a_cut(after) };
            assert!(lost.is_empty(), "P1, cut {cut}: {lost:#?}");
        }
        left -= of_this_life;
        lines += disk.station.checked_end("P1");
        events += disk.station.acked().iter().sum::<u64>();
    }
    assert!(events > cuts as u64 * HOSTS as u64, "the posters got on: {events}");
    // The control: a server whose syncs do nothing loses what it has acknowledged, and this check says so.
    let mut disk = Disk::started(mkfs, mib, lied_to("nosync"));
    let lost = disk.cut(Duration::from_millis(300));
    let lost = disk.station.missing(&lost);
    assert!(lost.iter().any(|finding| finding.ends_with("is lost")), "the control lost nothing: {lost:?}");
    eprintln!(
        "P1 {}: {cuts} power cuts, {events} events acknowledged, {lines} lines, 0 lost, 0 twice, {:.0?}; the control lost {}",
        mkfs[0],
        began.elapsed(),
        lost.len()
    );
}

/// A server on an image of its own.
struct Disk {
    // Dropped in this order: nothing may use the mount when it goes.
    station: Station,
    mount: Option<Mount>,
}

impl Disk {
    fn started(mkfs: &[&str], mib: u64, environment: Vec<(&'static str, &'static str)>) -> Self {
        let station = Station::new(HOSTS, environment);
        let image = station.fleet.path("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        let (program, options) = mkfs.split_first().expect("a program");
        run(program, &[options, &[text(&image)]].concat());
        let mut disk = Self { station, mount: None };
        disk.mount();
        disk.station.start();
        disk.station.enroll(HOSTS);
        // Also where syncs do nothing there is a beginning to come back to.
        run("sync", &["-f", text(&disk.station.state())]);
        disk
    }

    fn mount(&mut self) {
        self.mount = Some(Mount::new(&["-o", "loop", text(&self.station.fleet.path("image"))], &self.station.state()));
    }

    /// Cuts the power after a time of posting, and mounts what is left. Gives what was acknowledged before the cut.
    fn cut(&mut self, after: Duration) -> Vec<u64> {
        let mut posters = std::mem::take(&mut self.station.posters);
        let counts: Vec<_> = posters.iter().map(|poster| std::sync::Arc::clone(&poster.acked)).collect();
        let acked = while_posting(&mut posters, || {
            std::thread::sleep(after);
            let acked: Vec<u64> = counts.iter().map(|count| count.load(std::sync::atomic::Ordering::SeqCst)).collect();
            self.off();
            acked
        });
        self.station.posters = posters;
        self.on();
        acked
    }

    fn off(&mut self) {
        // Nothing that is in memory only reaches the disk from here on.
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.station.state())]);
        self.station.kill();
    }

    fn on(&mut self) {
        self.mount = None;
        assert!(is_empty(&self.station.state()), "the cut disk is gone");
        self.mount();
    }

    /// As `cut`, with the server started again: what is lost of what was acknowledged, and whether it says so too.
    fn lost_by_a_cut(&mut self, after: Duration) -> Vec<String> {
        let acked = self.cut(after);
        self.lost(&acked)
    }

    /// kill -9 first, between write and fdatasync: strace has every fdatasync wait before it begins. The server that is started
    /// on such lines tells the agents how far it is, which must hold after a cut too.
    fn lost_by_a_kill_and_a_cut(&mut self, after: Duration) -> Vec<String> {
        let mut posters = std::mem::take(&mut self.station.posters);
        let server = self.station.fleet.server.as_ref().expect("a server").id();
        let late = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=40000"];
        let _strace = Strace::attach(server, &self.station.fleet.path("strace"), &late);
        while_posting(&mut posters, || {
            std::thread::sleep(after);
            self.station.kill();
        });
        self.station.start();
        for poster in &mut posters {
            poster.begin_anew_from(poster.acked());
            poster.greet();
        }
        self.station.posters = posters;
        let acked = self.station.acked();
        self.off();
        self.on();
        self.lost(&acked)
    }

    fn lost(&mut self, acked: &[u64]) -> Vec<String> {
        self.station.start();
        for (poster, count) in self.station.posters.iter_mut().zip(acked) {
            // What came after the snapshot may be there or not.
            poster.begin_anew_from(*count);
        }
        self.station.missing(acked)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.station.kill();
        self.mount = None;
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
