//! Pure. Which files of a snapshot a verify job restores, from the lines of `restic ls --json`, and what the comparison of each adds
//! up to. The choice follows from the job's id alone. Does not touch files.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use restic_manager::id::JobId;
use restic_manager::protocol::job_options::VerifyOptions;
use serde::Deserialize;

use crate::restic_json::Summary;

/// Files of a verify that does not say how many.
pub(crate) const SAMPLE_FILES: u32 = 20;
/// Bytes of a verify that does not say how many: 1 GiB.
pub(crate) const SAMPLE_BYTES: u64 = 1 << 30;
/// So many names of differing files are told.
const MOST_NAMED: usize = 20;

/// A file in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    pub(crate) path: String,
    /// Zero is left out by some versions.
    #[serde(default)]
    pub(crate) size: u64,
    pub(crate) mtime: DateTime<Utc>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Node {
        #[serde(rename = "type")]
        node_type: String,
        #[serde(flatten)]
        file: Listed,
    },
    Snapshot {
        id: String,
        short_id: String,
    },
}

/// A random choice from a list of any length, which is seen line by line: each file gets a number by the job's id and its path, and
/// those with the lowest numbers are it.
pub(crate) struct Sample {
    job: JobId,
    files: usize,
    bytes: u64,
    snapshot: Option<String>,
    chosen: BTreeMap<(u128, String), Listed>,
}

impl Sample {
    pub(crate) fn new(job: JobId, options: &VerifyOptions) -> Self {
        let files = options.sample_files.unwrap_or(SAMPLE_FILES).max(1);
        Self {
            job,
            files: usize::try_from(files).unwrap_or(usize::MAX),
            bytes: options.sample_bytes.unwrap_or(SAMPLE_BYTES),
            snapshot: None,
            chosen: BTreeMap::new(),
        }
    }

    /// Takes a line of the list. What is neither a snapshot nor a file is passed over, and so is a file that is larger than all may be.
    pub(crate) fn see(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Snapshot { id, short_id }) if id.starts_with(&short_id) => self.snapshot = Some(id),
            // A name that is no text cannot be asked for.
            Ok(Line::Node { file, .. }) if file.path.contains('\u{fffd}') => {}
            Ok(Line::Node { node_type, file }) if node_type == "file" && file.size <= self.bytes => {
                let number = uuid::Uuid::new_v5(&self.job.0, file.path.as_bytes()).as_u128();
                self.chosen.insert((number, file.path.clone()), file);
                if self.chosen.len() > self.files {
                    self.chosen.pop_last();
                }
            }
            _ => {}
        }
    }

    /// The snapshot's id, and files that are no larger together than they may be. `None`: there was no list.
    pub(crate) fn chosen(self) -> Option<(String, Vec<Listed>)> {
        let mut left = self.bytes;
        let fits = |file: &Listed| match left.checked_sub(file.size) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        Some((self.snapshot?, self.chosen.into_values().filter(fits).collect()))
    }
}

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Same,
    /// Its source is another by now: only that it can be restored is known.
    ChangedSince,
    MissingSince,
    /// The source cannot be read.
    Unreadable,
    /// Its source is as it was, but not what was restored.
    Differing,
    NotRestored,
}

impl Verdict {
    const ALL: [Self; 6] =
        [Self::Same, Self::ChangedSince, Self::MissingSince, Self::Unreadable, Self::Differing, Self::NotRestored];

    const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::ChangedSince => "changed_since",
            Self::MissingSince => "missing_since",
            Self::Unreadable => "unreadable",
            Self::Differing => "differing",
            Self::NotRestored => "not_restored",
        }
    }

    const fn is_bad(self) -> bool {
        matches!(self, Self::Differing | Self::NotRestored)
    }
}

/// What became of all.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Vec<(String, Verdict)>);

impl Verdicts {
    pub(crate) fn add(&mut self, path: &str, verdict: Verdict) {
        self.0.push((path.to_owned(), verdict));
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|(_, found)| *found == verdict).count()
    }

    /// For the job's log: what is not simply the same.
    pub(crate) fn lines(&self) -> Vec<String> {
        let told = self.0.iter().filter(|(_, verdict)| *verdict != Verdict::Same);
        told.map(|(path, verdict)| format!("{}: {path:?}", verdict.name().replace('_', " "))).collect()
    }

    /// `None`: everything that could be compared is the same.
    pub(crate) fn error(&self) -> Option<String> {
        let bad: Vec<String> =
            self.0.iter().filter(|(_, verdict)| verdict.is_bad()).map(|(path, _)| format!("{path:?}")).collect();
        let (first, more) = (bad.first()?, bad.len().saturating_sub(MOST_NAMED));
        let others: String = bad.iter().skip(1).take(MOST_NAMED - 1).map(|path| format!(", {path}")).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let (all, count) = (self.0.len(), bad.len());
        Some(format!("of {all} restored files {count} are not what their unchanged sources are: {first}{others}{more}"))
    }

    pub(crate) fn stats(&self) -> Summary {
        let counts = Verdict::ALL.map(|verdict| (verdict.name().to_owned(), self.count(verdict).into()));
        std::iter::once(("checked".to_owned(), self.0.len().into())).chain(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(path: &str, size: u64) -> String {
        json!({"struct_type": "node", "type": "file", "name": "x", "path": path, "size": size, "mtime": "2026-01-02T03:04:05.6Z"}).to_string()
    }

    fn chosen(job: u128, options: &VerifyOptions, count: u64) -> Vec<String> {
        let mut sample = Sample::new(JobId(uuid::Uuid::from_u128(job)), options);
        sample.see(
            &json!({"struct_type": "snapshot", "id": "abcdef0123", "short_id": "abcdef01", "time": "x"}).to_string(),
        );
        sample.see(&json!({"type": "dir", "path": "/a", "mtime": "2026-01-02T03:04:05Z"}).to_string());
        for n in 0..count {
            sample.see(&line(&format!("/a/{n}"), n));
        }
        let (snapshot, files) = sample.chosen().expect("a list");
        assert_eq!(snapshot, "abcdef0123");
        files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn the_sample_follows_from_the_jobs_id_and_is_no_larger_than_it_may_be() {
        let five = VerifyOptions { sample_files: Some(5), ..VerifyOptions::default() };
        let first = chosen(1, &five, 1000);
        assert_eq!((first.len(), &first), (5, &chosen(1, &five, 1000)));
        assert_ne!(first, chosen(2, &five, 1000));
        assert_eq!(chosen(1, &five, 3).len(), 3);
        let small = VerifyOptions { sample_bytes: Some(10), ..VerifyOptions::default() };
        let files = chosen(1, &small, 1000);
        let bytes: u64 = files.iter().map(|path| path["/a/".len()..].parse::<u64>().expect("a number")).sum();
        assert!(!files.is_empty() && bytes <= 10, "{files:?}");
    }

    #[test]
    fn every_file_is_as_likely_as_any_other() {
        let one = VerifyOptions { sample_files: Some(1), ..VerifyOptions::default() };
        let mut counts = [0; 4];
        for job in 0..400 {
            let path = &chosen(job, &one, 4)[0];
            counts[path["/a/".len()..].parse::<usize>().expect("a number")] += 1;
        }
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_what_differs_from_an_unchanged_source_is_an_error_and_names_are_bounded() {
        let mut verdicts = Verdicts::default();
        for verdict in [Verdict::Same, Verdict::ChangedSince, Verdict::MissingSince, Verdict::Unreadable] {
            verdicts.add("/a", verdict);
        }
        assert_eq!(verdicts.error(), None);
        assert_eq!((&verdicts.stats()["checked"], &verdicts.stats()["same"]), (&json!(4), &json!(1)));
        assert_eq!(verdicts.lines().len(), 3);
        for n in 0..30 {
            verdicts.add(&format!("/b\u{1b}{n}"), Verdict::Differing);
        }
        let error = verdicts.error().expect("an error");
        assert!(error.contains("and 10 more") && !error.contains('\u{1b}'), "{error}");
    }
}
