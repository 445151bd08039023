//! Edge. Reads a journal's lines without its lock, from either end or from a place in it, for views of history. Lines are cut and
//! checked by their bytes; parsing them is left to whoever wants one.
//! A line that is being written, or was never acknowledged, is not seen. Does not repair anything.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::line::{self, Cut, Line};
use super::segment::{Carry, PreviousSegment, SegmentName, is_opening};
use super::stored::{self, Stored};
use super::tell;
use crate::file_error::FileError;

/// How much is read at a time, in bytes; a longer line is read whole.
const CHUNK_BYTES: u64 = 64 * 1024;

/// The names of the segments that may be appended to (not compressed), oldest first.
pub fn segments(dir: &Path) -> Result<Vec<SegmentName>, FileError> {
    stored::list(dir, SegmentName::parse)
}

/// Whether to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

/// Where to begin reading forward.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    Beginning,
    /// The first line received after this.
    After(DateTime<Utc>),
    /// The line with this seq.
    Seq(u64),
}

/// Calls `visit` with each line, newest first, until it says stop. Lines with a seq above `up_to_seq` (what memory knows to be
/// durable) are left out, as are the segments' own first lines.
pub fn newest_first(dir: &Path, up_to_seq: u64, mut visit: impl FnMut(Line) -> Next) -> Result<(), FileError> {
    newest_first_texts(dir, up_to_seq, |text| line::decode(text).map_or(Next::Continue, &mut visit))
}

/// The same with the bytes of each line, which are whole, without their newline.
pub fn newest_first_texts(dir: &Path, up_to_seq: u64, mut visit: impl FnMut(&[u8]) -> Next) -> Result<(), FileError> {
    let mut names = stored::segments(dir)?;
    // The end of a segment as its successor knows it.
    let mut ends_at: Option<u64> = None;
    while let Some(name) = names.pop() {
        let mut stopped = false;
        let mut previous = None;
        if let Some(mut segment) = Stored::open(dir, name)? {
            lines_backwards(&mut segment, ends_at, |text| {
                let Some(facts) = Facts::of(text) else { return Next::Continue };
                if facts.is_opening {
                    previous = opening_of(text).and_then(|opening| opening.previous);
                    return Next::Continue;
                }
                if facts.seq > up_to_seq {
                    return Next::Continue;
                }
                let next = visit(text);
                stopped = next == Next::Stop;
                next
            })?;
        }
        if stopped {
            break;
        }
        ends_at = previous.filter(|p| names.last().is_some_and(|n| n.to_string() == p.segment)).map(|p| p.bytes);
    }
    Ok(())
}

/// Calls `visit` with each line received after an instant, oldest first, until it says stop. What is before is not read: the
/// segment is found by the segments' first lines, the place in it by bisection.
pub fn oldest_first(
    dir: &Path,
    after: Option<DateTime<Utc>>,
    mut visit: impl FnMut(Line) -> Next,
) -> Result<(), FileError> {
    let start = after.map_or(Start::Beginning, Start::After);
    oldest_first_texts(dir, start, |text| line::decode(text).map_or(Next::Continue, &mut visit))
}

/// The same from any place, with the bytes of each line, which are whole, without their newline.
pub fn oldest_first_texts(dir: &Path, start: Start, mut visit: impl FnMut(&[u8]) -> Next) -> Result<(), FileError> {
    let names = stored::segments(dir)?;
    let first = first_segment(dir, &names, start)?;
    let mut begun = matches!(start, Start::Beginning);
    for (at, name) in names.iter().enumerate().skip(first) {
        let Some(mut segment) = Stored::open(dir, *name)? else { continue };
        let mut end = segment.len();
        if let Some(next) = names.get(at + 1)
            && let Some(previous) = opening(dir, *next)?.and_then(|opening| opening.previous)
            && previous.segment == name.to_string()
        {
            end = end.min(previous.bytes);
        }
        let from = if at == first { place_of(&mut segment, end, start)? } else { 0 };
        let mut stopped = false;
        lines_forwards(&mut segment, from, end, |text| {
            // Later lines are after the start too; the parsing of their times is spared.
            let facts = if begun { Facts::of(text) } else { Facts::with_time(text) };
            let wanted = facts.is_some_and(|facts| !facts.is_opening && (begun || !facts.is_before(start)));
            begun |= wanted;
            let next = if wanted { visit(text) } else { Next::Continue };
            stopped = next == Next::Stop;
            next
        })?;
        if stopped {
            break;
        }
    }
    Ok(())
}

/// What places a line.
struct Facts {
    seq: u64,
    /// Looked at by its text only where it is asked for.
    received_at: Option<DateTime<Utc>>,
    is_opening: bool,
}

impl Facts {
    fn of(text: &[u8]) -> Option<Self> {
        match line::peek(text) {
            Some(peek) => {
                let is_opening = peek.kind == super::segment::OPENED && !peek.is_agents;
                Some(Self { seq: peek.seq, received_at: None, is_opening })
            }
            None => line::decode(text).map(|line| {
                let (seq, received_at) = (line.seq, Some(line.received_at));
                Self { seq, received_at, is_opening: is_opening(&line) }
            }),
        }
    }

    fn with_time(text: &[u8]) -> Option<Self> {
        let mut facts = Self::of(text)?;
        facts.received_at = facts.received_at.or_else(|| line::peek(text)?.received_at());
        Some(facts)
    }

    fn is_before(&self, start: Start) -> bool {
        match start {
            Start::Beginning => false,
            Start::After(after) => self.received_at.is_some_and(|at| at <= after),
            Start::Seq(seq) => self.seq < seq,
        }
    }
}

/// What a segment's first line says of its beginning.
#[derive(Debug)]
pub struct Opening {
    pub seq: u64,
    pub at: DateTime<Utc>,
    pub previous: Option<PreviousSegment>,
}

/// The beginning of a segment; `None` where its first line is damaged, or the segment is gone.
pub fn opening(dir: &Path, name: SegmentName) -> Result<Option<Opening>, FileError> {
    let Some(first) = stored::first_line(dir, name)? else { return Ok(None) };
    Ok(Some(first).filter(|text| line::checksum(text).is_some()).as_deref().and_then(opening_of))
}

/// When the newest line of a segment was received, be it a line that counts or not; `None`: there is no good one.
pub fn newest_at(dir: &Path, name: SegmentName) -> Result<Option<DateTime<Utc>>, FileError> {
    let mut newest = None;
    if let Some(mut segment) = Stored::open(dir, name)? {
        lines_backwards(&mut segment, None, |text| {
            newest = Facts::with_time(text).and_then(|facts| facts.received_at);
            if newest.is_some() { Next::Stop } else { Next::Continue }
        })?;
    }
    Ok(newest)
}

fn opening_of(text: &[u8]) -> Option<Opening> {
    // As we write it. The state behind it may be megabytes, which are not parsed.
    if let Some(peek) = line::peek(text).filter(|peek| peek.kind == super::segment::OPENED && !peek.is_agents)
        && let Some(rest) = peek.payload.strip_prefix(b"{\"previous\":")
    {
        let previous = serde_json::Deserializer::from_slice(rest).into_iter::<PreviousSegment>().next()?.ok()?;
        return Some(Opening { seq: peek.seq, at: peek.received_at()?, previous: Some(previous) });
    }
    let line: Line = serde_json::from_slice(text).ok().filter(is_opening)?;
    let carry = serde_json::from_str::<Carry<serde::de::IgnoredAny>>(line.payload.get()).ok()?;
    Some(Opening { seq: line.seq, at: line.received_at, previous: carry.previous })
}

/// The last segment that begins before the start, by bisection over those whose first line is good.
fn first_segment(dir: &Path, names: &[SegmentName], start: Start) -> Result<usize, FileError> {
    let is_by = |opening: &Opening| match start {
        Start::Beginning => false,
        Start::After(after) => opening.at <= after,
        Start::Seq(seq) => opening.seq <= seq,
    };
    let (mut found, mut low, mut high) = (0, 0, names.len());
    if matches!(start, Start::Beginning) || names.is_empty() {
        return Ok(0);
    }
    // Mostly what is asked for is new.
    let mut middle = high - 1;
    while high - low > 1 {
        let mut at = middle;
        let readable = loop {
            match opening(dir, names[at])? {
                Some(opening) => break Some(opening),
                None if at == low + 1 || at == 0 => break None,
                None => at -= 1,
            }
        };
        match readable {
            Some(opening) if is_by(&opening) => (found, low) = (at, middle),
            Some(_) => high = at,
            None => low = middle,
        }
        middle = low + (high - low) / 2;
    }
    Ok(found)
}

/// A place at the beginning of a line, at or somewhat before the start.
fn place_of(segment: &mut Stored, end: u64, start: Start) -> Result<u64, FileError> {
    let (mut low, mut high) = (0, end);
    if matches!(start, Start::Beginning) {
        return Ok(0);
    }
    while high - low > CHUNK_BYTES {
        let middle = low + (high - low) / 2;
        match first_line_from(segment, middle, high)? {
            Some((at, facts)) if facts.is_before(start) => low = at,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first good line that begins after `from`, and its place.
fn first_line_from(segment: &mut Stored, from: u64, to: u64) -> Result<Option<(u64, Facts)>, FileError> {
    let mut bytes = Vec::new();
    let mut window = 4 * 1024;
    loop {
        let until = to.min(from + window);
        segment.read(from, until, &mut bytes)?;
        if let Some(newline) = memchr::memchr(b'\n', &bytes) {
            let lines = &bytes[newline + 1..];
            let good = line::cuts(lines).into_iter().filter(|cut| cut.is_line);
            let facts = |cut: Cut| Some((from + (newline + 1 + cut.offset) as u64, Facts::with_time(cut.text(lines))?));
            if let Some(found) = good.filter_map(facts).next() {
                return Ok(Some(found));
            }
        }
        if until == to {
            return Ok(None);
        }
        window *= 4;
    }
}

fn lines_backwards(
    segment: &mut Stored,
    ends_at: Option<u64>,
    mut visit: impl FnMut(&[u8]) -> Next,
) -> Result<(), FileError> {
    let mut at = ends_at.map_or(segment.len(), |end| end.min(segment.len()));
    // The beginning of a line whose start is further ahead in the file.
    let mut rest: Vec<u8> = Vec::new();
    let mut bytes = Vec::new();
    while at > 0 {
        let from = at.saturating_sub(CHUNK_BYTES);
        segment.read(from, at, &mut bytes)?;
        bytes.append(&mut rest);
        at = from;
        let whole_from = match memchr::memchr(b'\n', &bytes) {
            _ if from == 0 => 0,
            Some(newline) => newline + 1,
            None => {
                rest = std::mem::take(&mut bytes);
                continue;
            }
        };
        let lines = &bytes[whole_from..];
        for cut in line::cuts(lines).into_iter().rev() {
            if cut.is_line && visit(cut.text(lines)) == Next::Stop {
                return Ok(());
            }
            tell_damage(segment, from + whole_from as u64, lines, cut);
        }
        bytes.truncate(whole_from);
        rest = std::mem::take(&mut bytes);
    }
    Ok(())
}

fn lines_forwards(
    segment: &mut Stored,
    mut from: u64,
    end: u64,
    mut visit: impl FnMut(&[u8]) -> Next,
) -> Result<(), FileError> {
    let mut bytes = Vec::new();
    let mut window = CHUNK_BYTES;
    while from < end {
        segment.read(from, end.min(from + window), &mut bytes)?;
        let Some(newline) = memchr::memrchr(b'\n', &bytes) else {
            if (bytes.len() as u64) < window {
                break;
            }
            window *= 4;
            continue;
        };
        let lines = &bytes[..=newline];
        for cut in line::cuts(lines) {
            if cut.is_line && visit(cut.text(lines)) == Next::Stop {
                return Ok(());
            }
            tell_damage(segment, from, lines, cut);
        }
        from += lines.len() as u64;
    }
    Ok(())
}

/// Reports damage with file and line, once. Bytes at the end without a newline are a line on its way.
fn tell_damage(segment: &mut Stored, from: u64, lines: &[u8], cut: Cut) {
    if cut.is_line || lines.get(cut.offset + cut.len - 1) != Some(&b'\n') {
        return;
    }
    let offset = from + cut.offset as u64;
    let path = segment.path.clone();
    tell::once(&path, offset, || {
        let mut before = Vec::new();
        let read = segment.read(0, offset, &mut before);
        let line = read.map_or(0, |()| memchr::memchr_iter(b'\n', &before).count() + 1);
        tracing::error!(file = %path.display(), line, bytes = cut.len, "damage in history; the other lines are used");
    });
}
