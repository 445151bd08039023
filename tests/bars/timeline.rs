//! What strace saw of a server, in order: which journal line was written, which was synced and with what result, which reply
//! was sent. strace holds a thread at each call until it has written the call down, so what comes first in its log came first.

use std::collections::{BTreeMap, HashMap};

/// The calls that strace is to write down.
pub(crate) const CALLS: &str = "trace=write,writev,sendto,sendmsg,recvfrom,read,fdatasync,fsync";

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Written,
    /// Written before a sync that has begun.
    Syncing,
    Durable,
    /// Its sync failed: no later sync of the file makes up for it.
    Failed,
}

#[derive(Default)]
pub(crate) struct Timeline {
    /// 2xx replies that acknowledge events.
    pub(crate) replies: usize,
    pub(crate) syncs: usize,
    pub(crate) failed_syncs: usize,
    /// Replies that acknowledged what was not durable at that moment.
    pub(crate) false_replies: Vec<String>,
    /// By host and the event's number in its stream, or by job and the line's number in its log: the file it was last written to, and its fate there. A segment's first
    /// line, without which the others may not be found, is 0 of its file.
    lines: HashMap<(String, u64), (String, Fate)>,
    /// How far each host's replies have been looked at.
    acknowledged: BTreeMap<String, u64>,
    /// Whose request was last read from a socket.
    requests: HashMap<String, String>,
    /// The first half of a call, by thread.
    unfinished: HashMap<String, String>,
}

/// Reads strace's log.
pub(crate) fn read(log: &str) -> Timeline {
    let mut timeline = Timeline::default();
    for line in log.lines() {
        // A thread, padded; a time; a call.
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((_, call)) = rest.trim_start().split_once(' ') else { continue };
        if let Some(first) = call.strip_suffix(" <unfinished ...>") {
            timeline.begins(first);
            timeline.unfinished.insert(thread.to_owned(), first.to_owned());
        } else if let Some((_, rest)) = call.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            let first = timeline.unfinished.remove(thread).unwrap_or_default();
            timeline.ends(&(first + rest));
        } else {
            timeline.begins(call);
            timeline.ends(call);
        }
    }
    timeline
}

impl Timeline {
    /// A call is made. What it sends is on its way from here on.
    fn begins(&mut self, call: &str) {
        let Some((name, path, rest)) = parts_of(call) else { return };
        match name {
            "fdatasync" | "fsync" => {
                for (file, fate) in self.lines.values_mut() {
                    if file == path && *fate == Fate::Written {
                        *fate = Fate::Syncing;
                    }
                }
            }
            "write" | "writev" | "sendto" | "sendmsg" if !path.starts_with('/') => self.reply(path, rest),
            _ => {}
        }
    }

    /// A call has returned. What it wrote or synced is there from here on.
    fn ends(&mut self, call: &str) {
        let Some((name, path, rest)) = parts_of(call) else { return };
        let result = call.rsplit_once(") = ").map_or("", |(_, result)| result);
        match name {
            "fdatasync" | "fsync" => self.synced(path, result.starts_with('0')),
            "write" | "writev" if is_history(path) && !result.starts_with('-') => self.written(path, rest),
            "recvfrom" | "read" if !path.starts_with('/') => {
                let of_events = between(rest, "POST /v1/agents/", "/events?");
                let whose = of_events.or_else(|| between(rest, "/jobs/", "/log HTTP"));
                if let Some(whose) = whose {
                    self.requests.insert(path.to_owned(), whose.to_owned());
                }
            }
            _ => {}
        }
    }

    fn written(&mut self, path: &str, data: &str) {
        if let Some(job) = between(path, "/logs/", ".jsonl") {
            for (at, start) in data.match_indices(r#"{\"seq\":"#) {
                if let Some(seq) = number(&data[at + start.len()..]) {
                    self.lines.insert((job.to_owned(), seq), (path.to_owned(), Fate::Written));
                }
            }
        }
        let Some(host) = between(path, "/hosts/", "/journal/") else { return };
        if data.contains(r#"\"type\":\"segment.opened\""#) {
            self.lines.insert((path.to_owned(), 0), (path.to_owned(), Fate::Written));
        }
        for (at, key) in data.match_indices(r#"\"stream_seq\":"#) {
            if let Some(seq) = number(&data[at + key.len()..]) {
                self.lines.insert((host.to_owned(), seq), (path.to_owned(), Fate::Written));
            }
        }
    }

    fn synced(&mut self, path: &str, well: bool) {
        if !is_history(path) {
            return;
        }
        self.syncs += 1;
        self.failed_syncs += usize::from(!well);
        for (file, fate) in self.lines.values_mut().filter(|(file, _)| file == path) {
            *fate = match *fate {
                Fate::Syncing if well => Fate::Durable,
                // The kernel may have dropped what was written meanwhile, too.
                Fate::Syncing | Fate::Written if !well => Fate::Failed,
                fate => fate,
            };
            debug_assert_eq!(file, path);
        }
    }

    fn reply(&mut self, socket: &str, data: &str) {
        let acked = data.split_once("HTTP/1.1 2").and_then(|(_, body)| body.split_once(r#"\"acked\":"#));
        let acked = acked.and_then(|(_, rest)| number(rest));
        let Some((host, acked)) = self.requests.get(socket).cloned().zip(acked) else { return };
        self.replies += 1;
        let before = self.acknowledged.insert(host.clone(), acked).unwrap_or(acked.saturating_sub(1));
        for seq in before + 1..=acked {
            let found = self.lines.get(&(host.clone(), seq));
            let beginning = found.and_then(|(file, _)| self.lines.get(&(file.clone(), 0)));
            let wrong = match (found, beginning) {
                (Some((_, Fate::Durable)), None | Some((_, Fate::Durable))) => continue,
                (Some((file, Fate::Durable)), Some((_, fate))) => format!("{file} has a first line that is {fate:?}"),
                (Some((_, fate)), _) => format!("its line is {fate:?}"),
                (None, _) => "it was never written".to_owned(),
            };
            self.false_replies.push(format!("{host}: event {seq} is acknowledged, and {wrong}"));
        }
    }
}

/// Whether a file's lines are acknowledged to agents: a host's history, and a job's log.
fn is_history(path: &str) -> bool {
    path.contains("/journal/") || path.contains("/logs/")
}

/// A call's name, the path or socket of its descriptor, and the rest.
fn parts_of(call: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = call.split_once('(')?;
    let (descriptor, rest) = rest.split_once('<')?;
    if !descriptor.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (path, rest) = rest.split_once('>')?;
    Some((name, path, rest))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(inner, _)| inner)
}

fn number(text: &str) -> Option<u64> {
    text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
}

#[test]
fn a_timeline_tells_a_reply_before_its_sync_from_one_after_it() {
    let request =
        r#"7    1.0 recvfrom(9<socket:[1]>, "POST /v1/agents/a/events?stream=x HTTP/1.1", 99, 0, NULL, NULL) = 42"#;
    let write = r#"8 1.1 write(5</s/hosts/a/journal/2026-11.jsonl>, "{\"stream_seq\":1,}\n", 18) = 18"#;
    let sync = "8 1.2 fdatasync(5</s/hosts/a/journal/2026-11.jsonl> <unfinished ...>";
    let synced = "8 1.4 <... fdatasync resumed>) = 0";
    let failed = "8 1.4 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)";
    let reply =
        r#"7 1.3 writev(9<socket:[1]>, [{iov_base="HTTP/1.1 200 OK\r\n\r\n{\"acked\":1}\n", iov_len=9}], 1) = 9"#;
    let false_replies = |lines: &[&str]| {
        let timeline = read(&lines.join("\n"));
        assert_eq!(timeline.replies, 1, "{lines:?}");
        timeline.false_replies.len()
    };
    assert_eq!(false_replies(&[request, write, sync, synced, reply]), 0);
    assert_eq!(false_replies(&[request, write, sync, reply, synced]), 1, "before its sync returned");
    assert_eq!(false_replies(&[request, sync, write, synced, reply]), 1, "written after the sync began");
    assert_eq!(false_replies(&[request, write, sync, failed, reply]), 1);
    assert_eq!(false_replies(&[request, write, sync, failed, sync, synced, reply]), 1, "retried into success");
    assert_eq!(false_replies(&[request, write, sync, failed, write, sync, synced, reply]), 0, "written anew");
    assert_eq!(false_replies(&[request, reply]), 1, "never written");
    let open = r#"8 1.1 write(5</s/hosts/a/journal/2026-11.jsonl>, "{\"type\":\"segment.opened\"}\n", 18) = 18"#;
    assert_eq!(false_replies(&[request, open, sync, synced, write, sync, synced, reply]), 0);
    assert_eq!(
        false_replies(&[request, open, sync, failed, write, sync, synced, reply]),
        1,
        "its segment has no beginning"
    );
}
