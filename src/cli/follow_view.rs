//! Edge. What is shown of a job that is followed: its log on standard output; a bar on a terminal, and plain lines elsewhere, on
//! standard error. Does not ask the server.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::failure::CliFailure;
use super::follow::{Told, follow, unless_interrupted};
use super::job::{Job, progress_words, waits};
use super::log_line::{LogLine, log_line};
use super::output::{Output, remark};
use super::words;
use crate::http_client::HttpClient;
use crate::printable::printable;
use crate::protocol::agent_event::JobProgress;

/// Progress in plain lines comes no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Of most jobs nobody knows how much of them is done: the time tells that they run.
const NO_BAR: &str = "{spinner} {elapsed:>4} {wide_msg}";
/// The person pressed Ctrl-C: as shells tell it.
const INTERRUPTED: u8 = 130;

/// What goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Printed {
    /// The log's lines; with `--json` as they are.
    Log,
    /// With `--json` the job when it has ended, and nothing else; else the log's lines.
    Job,
}

/// Follows a job and shows it; the exit code is the job's outcome. Ctrl-C ends the following only.
pub(super) async fn show(
    client: &HttpClient,
    id: &str,
    is_there: bool,
    printed: Printed,
    output: &mut Output,
) -> Result<u8, CliFailure> {
    let is_shown_as_json = output.json;
    let mut view = FollowView::new(output, printed);
    let ended = unless_interrupted(follow(client, id, is_there, &mut |told| view.tell(&told))).await;
    view.end();
    let Some(ended) = ended else {
        let id = printable(id);
        remark(&format!(
            "no longer followed: job {id} goes on. `restic-manager log {id} -f` follows it again, `restic-manager cancel {id}` ends it"
        ));
        output.flush()?;
        return Ok(INTERRUPTED);
    };
    let ended = ended?;
    if is_shown_as_json && printed == Printed::Job {
        output.json(&ended.value)?;
    }
    output.flush()?;
    if !is_shown_as_json {
        ended.job.outcome().iter().for_each(|line| remark(line));
    }
    Ok(ended.job.exit_code())
}

struct FollowView<'o> {
    output: &'o mut Output,
    printed: Printed,
    /// `None` where standard error is no terminal.
    bar: Option<ProgressBar>,
    /// What was last said of the job.
    said: String,
    /// The job's id and name while it was queued when it was looked at last.
    queued: Option<(String, String)>,
    progress_said: Option<Instant>,
}

impl<'o> FollowView<'o> {
    fn new(output: &'o mut Output, printed: Printed) -> Self {
        let bar = (std::io::stderr().is_terminal() && !output.json).then(|| {
            let bar = ProgressBar::new(100).with_style(style(NO_BAR));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { output, printed, bar, said: String::new(), queued: None, progress_said: None }
    }

    fn tell(&mut self, told: &Told<'_>) -> Result<(), CliFailure> {
        match told {
            Told::Job(job) => self.tell_job(job),
            Told::Line(line) => self.tell_line(line)?,
            Told::Lost(why) => self.remark(&format!("{why}: trying again until the server is back; the job goes on")),
            Told::Back => self.remark("the server is back"),
        }
        Ok(())
    }

    fn tell_job(&mut self, job: &Job) {
        if job.is_final() {
            return;
        }
        self.queued = (job.status == "queued").then(|| (job.id.clone(), job.name()));
        let waiting = job.waiting_for.as_ref().map_or_else(String::new, |what| format!(", {}", waits(what)));
        self.say(&job.id, format!("{}: {}{waiting}", job.name(), job.status_words()));
    }

    fn say(&mut self, id: &str, text: String) {
        match &self.bar {
            Some(bar) => bar.set_message(printable(&text)),
            None if text != self.said && !self.output.json => remark(&format!("job {id}, {text}")),
            None => {}
        }
        self.said = text;
    }

    fn tell_line(&mut self, line: &Value) -> Result<(), CliFailure> {
        // Only what runs has a log.
        if let Some((id, name)) = self.queued.take() {
            self.say(&id, format!("{name}: running"));
        }
        if self.output.json {
            return match self.printed {
                Printed::Log => self.output.json(line).and_then(|()| self.output.flush()),
                Printed::Job => Ok(()),
            };
        }
        match log_line(line) {
            Some(LogLine::Progress(progress)) => self.tell_progress(&progress),
            Some(LogLine::Counted { part, what, .. }) if self.bar.is_some() && part < 1.0 => {
                self.fill(part, format!("{} %, {what}", words::percent(part)));
            }
            Some(LogLine::Counted { text, .. }) => {
                self.print(&text)?;
                self.empty();
            }
            Some(LogLine::Text(text)) => self.print(&text)?,
            None => {}
        }
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<(), CliFailure> {
        let output = &mut *self.output;
        let mut print = || output.line(text).and_then(|()| output.flush());
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn tell_progress(&mut self, progress: &JobProgress) {
        let words = progress_words(progress);
        if self.bar.is_some() {
            self.fill(progress.percent_done.unwrap_or(0.0), words);
        } else if self.progress_said.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) && !words.is_empty() {
            self.progress_said = Some(Instant::now());
            remark(&words);
        }
    }

    /// The bar as far as this part, 0 to 1.
    fn fill(&self, part: f64, message: String) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(style("{spinner} {bar:20} {wide_msg}"));
        bar.set_position(u64::from(words::percent(part)));
        bar.set_message(message);
    }

    /// No bar: what was counted is done, and nobody knows what comes next.
    fn empty(&self) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(style(NO_BAR));
        bar.set_message(printable(&self.said));
    }

    fn remark(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| remark(text)),
            None => remark(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
