//! Edge. The agent's record of commands, `ledger.jsonl`: what it was told to run and what became of it, durable
//! before the cursor moves or restic starts. This is what makes "delivered at least once" into "executed at most
//! once". Does not decide whether a command may run, and does not tell the server: the spool does.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use restic_manager::append_file::{AppendFile, open_after_whole_lines};
use restic_manager::atomic_file;
use restic_manager::file_error::FileError;
use restic_manager::id::JobId;
use restic_manager::protocol::UNSETTLED_JOBS_LIMIT;
#[cfg(test)]
use restic_manager::protocol::agent_event::JobFinished;
use restic_manager::protocol::command::CommandRun;

pub(crate) mod entry;

pub(crate) use entry::{Entry, LedgerJob, LedgerState, OfflineJob, Progress, Stage, Work};

/// A smaller file is not worth compacting, in bytes.
const COMPACT_ABOVE: u64 = 256 * 1024;

/// What a poll's answer asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    Run(CommandRun),
    Cancel(JobId),
}

/// What a batch of commands came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Receipt {
    /// To be accepted or rejected now.
    pub(crate) new: Vec<JobId>,
    /// Delivered again: to be answered again from what the ledger knows, never run again.
    pub(crate) known: Vec<JobId>,
    /// To be cancelled if they run; each has not ended.
    pub(crate) cancel: Vec<JobId>,
}

/// The open ledger. One process has it at a time.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    /// None: not open, since the file was replaced and could not be opened again yet.
    file: Option<AppendFile>,
    state: LedgerState,
}

impl Ledger {
    /// Opens `<dir>/ledger.jsonl`. A torn last line is cut off; other lines that cannot be read are skipped and
    /// described, one text each.
    pub(crate) fn open(dir: &Path, now: DateTime<Utc>) -> Result<(Self, Vec<String>), FileError> {
        let path = dir.join("ledger.jsonl");
        let mut file = open_after_whole_lines(&path)?;
        let bytes = file.read_from(0)?;
        let mut state = LedgerState::default();
        let mut damage = Vec::new();
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match serde_json::from_slice(line) {
                Ok(entry) => entry::apply(&mut state, &entry),
                Err(_) => {
                    damage.push(format!("{}:{}: this line is damaged and is skipped", path.display(), number + 1));
                }
            }
        }
        let mut ledger = Self { path, file: Some(file), state };
        ledger.compact_if_large(now)?;
        Ok((ledger, damage))
    }

    /// Puts a batch of commands and the cursor after them into the ledger, in one durable write. After an error
    /// nothing was received and the cursor has not moved.
    pub(crate) fn receive(
        &mut self,
        now: DateTime<Utc>,
        commands: &[Command],
        cursor: &str,
    ) -> Result<Receipt, FileError> {
        let mut receipt = Receipt::default();
        let mut entries = Vec::new();
        for command in commands {
            match command {
                Command::Run(run) if receipt.new.contains(&run.job_id) => {}
                Command::Run(run) if self.state.job(run.job_id).is_some() => receipt.known.push(run.job_id),
                Command::Run(run) => {
                    receipt.new.push(run.job_id);
                    let stage = Stage::Received { command: run.clone() };
                    entries.push(Entry::Job { ts: now, job_id: run.job_id, stage });
                }
                Command::Cancel(job_id) => {
                    let job = self.state.job(*job_id);
                    // An id that nobody has told us of cannot run here; one that has ended stays ended.
                    if receipt.new.contains(job_id) || job.is_some_and(|job| !job.has_ended()) {
                        receipt.cancel.push(*job_id);
                        if !job.is_some_and(|job| job.cancel_requested) {
                            entries.push(Entry::Job { ts: now, job_id: *job_id, stage: Stage::CancelRequested });
                        }
                    }
                }
            }
        }
        if self.cursor() != Some(cursor) {
            entries.push(Entry::Cursor { cursor: cursor.to_owned() });
        }
        self.write(&entries)?;
        Ok(receipt)
    }

    /// Records what happened to a job; durable when this returns.
    pub(crate) fn record(&mut self, now: DateTime<Utc>, job_id: JobId, stage: Stage) -> Result<(), FileError> {
        self.write(&[Entry::Job { ts: now, job_id, stage }])
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&LedgerJob> {
        self.state.job(id)
    }

    /// What the next poll continues after; none: from the beginning.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.state.cursor()
    }

    /// Jobs that have not ended, in order of receipt.
    pub(crate) fn unfinished(&self) -> Vec<&LedgerJob> {
        self.state.jobs().filter(|job| !job.has_ended()).collect()
    }

    /// Jobs whose end the server has not acknowledged, in order of receipt: hello's `running_jobs`.
    pub(crate) fn unsettled(&self) -> Vec<&LedgerJob> {
        self.state.jobs().filter(|job| !job.settled).collect()
    }

    /// Whether a command that is in here already may be taken: a hello must be able to name all of them.
    pub(crate) fn has_room_for_commands(&self) -> bool {
        self.state.jobs().filter(|job| !job.settled).count() <= UNSETTLED_JOBS_LIMIT
    }

    /// The newest jobs whose end the server has acknowledged, at most `limit`: hello's `ended_jobs`.
    pub(crate) fn settled(&self, limit: usize) -> Vec<JobId> {
        self.state.jobs().rev().filter(|job| job.settled && job.has_ended()).map(|job| job.id).take(limit).collect()
    }

    /// Ends that the server may not know of. After a start, those that the spool does not hold are spooled again: the
    /// agent may have died between the two files.
    pub(crate) fn unsettled_ends(&self) -> Vec<&LedgerJob> {
        self.state.jobs().filter(|job| !job.settled && job.has_ended()).collect()
    }

    /// At a start: jobs that the last run of the agent died with. They are never run again.
    pub(crate) fn started_without_end(&self) -> Vec<JobId> {
        self.state.jobs().filter(|job| job.progress == Progress::Started).map(|job| job.id).collect()
    }

    #[cfg(test)]
    /// The end of a finished job, for one that is delivered again.
    pub(crate) fn end_of(&self, id: JobId) -> Option<&JobFinished> {
        match &self.state.job(id)?.progress {
            Progress::Finished(finished) => Some(finished),
            _ => None,
        }
    }

    /// Rewrites a large file without what is no longer needed, when that saves much. Also for a quiet moment once a day.
    pub(crate) fn compact_if_large(&mut self, now: DateTime<Utc>) -> Result<bool, FileError> {
        let len = self.file()?.len();
        if len <= COMPACT_ABOVE {
            return Ok(false);
        }
        let entries = entry::compacted(&self.state, now);
        let bytes = self.lines(&entries)?;
        if bytes.len() as u64 > len / 4 * 3 {
            return Ok(false);
        }
        // The open file would go on to mean the old content.
        self.file = None;
        atomic_file::replace(&self.path, &bytes)?;
        self.state = LedgerState::default();
        entries.iter().for_each(|entry| entry::apply(&mut self.state, entry));
        self.file()?;
        Ok(true)
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), FileError> {
        if entries.is_empty() {
            return Ok(());
        }
        let bytes = self.lines(entries)?;
        self.file()?.append_durably_or_take_back(&bytes)?;
        entries.iter().for_each(|entry| entry::apply(&mut self.state, entry));
        Ok(())
    }

    fn lines(&self, entries: &[Entry]) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry)
                .map_err(|error| FileError::of("write", &self.path)(error.into()))?;
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    fn file(&mut self) -> Result<&mut AppendFile, FileError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open_after_whole_lines(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

#[cfg(test)]
mod tests;
