//! Pure. The one bound on everything that waits for the server, events and job logs together, and what was given up to keep to
//! it. Shared by the spools, which count themselves. Does not give anything up: `make_room` does.

use std::cell::Cell;

/// All in bytes.
pub(crate) const TOTAL: u64 = 64 * 1024 * 1024;
/// The last part of the total is for the starts and ends of jobs that have been accepted.
pub(crate) const RESERVE: u64 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes that may wait in all.
    total: u64,
    reserve: u64,
    /// Bytes of events.
    pub(crate) events: Cell<u64>,
    /// Bytes of all jobs' logs.
    pub(crate) logs: Cell<u64>,
    /// Since the start: lines and progress that the server will never see.
    pub(crate) dropped_lines: Cell<u64>,
    pub(crate) dropped_progress: Cell<u64>,
    /// Logs have grown since everything that they can give up was given up.
    pub(crate) may_give: Cell<bool>,
}

impl Room {
    pub(crate) fn new(total: u64, reserve: u64) -> Self {
        Self {
            total,
            reserve,
            events: Cell::new(0),
            logs: Cell::new(0),
            dropped_lines: Cell::new(0),
            dropped_progress: Cell::new(0),
            may_give: Cell::new(true),
        }
    }

    /// `bytes` more of what is not about an accepted job: logs, reports, fires.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        self.has_reserved(bytes + self.reserve)
    }

    /// `bytes` more of the starts and ends of accepted jobs.
    pub(crate) fn has_reserved(&self, bytes: u64) -> bool {
        self.events.get() + self.logs.get() + bytes <= self.total
    }

    /// The events alone leave room for one more job's; logs would make way for them.
    pub(crate) fn has_for_commands(&self, bytes: u64) -> bool {
        self.events.get() + bytes + self.reserve <= self.total
    }

    /// A log has another length.
    pub(crate) fn log_changed(&self, before: u64, after: u64) {
        self.logs.set((self.logs.get() + after).saturating_sub(before));
        if after > before {
            self.may_give.set(true);
        }
    }

    pub(crate) fn count(&self, dropped: Dropped) {
        self.dropped_lines.set(self.dropped_lines.get() + dropped.lines);
        self.dropped_progress.set(self.dropped_progress.get() + dropped.progress);
    }
}

/// What was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dropped {
    pub(crate) lines: u64,
    pub(crate) progress: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_for_jobs_and_logs_do_not_stand_in_the_way_of_commands() {
        let room = Room::new(1_000, 200);
        room.events.set(300);
        room.log_changed(0, 450);
        assert!(room.has(50) && !room.has(51));
        assert!(room.has_reserved(250) && !room.has_reserved(251));
        assert!(room.has_for_commands(500) && !room.has_for_commands(501));
        room.log_changed(450, 50);
        assert_eq!(room.logs.get(), 50);
    }
}
