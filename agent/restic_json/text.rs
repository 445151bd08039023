//! Pure. A program's output as text that may be shown: valid UTF-8, without terminal controls, of bounded length.
//! Does not mask secrets: `restic_manager::mask` does, with what only the caller knows.

/// The longest text kept of one line, in bytes. Twice this (every character escaped) still fits into one event.
pub(crate) const TEXT_LIMIT_BYTES: usize = 16 * 1024;

/// The line without escape sequences, control characters and white space at its end, cut at `TEXT_LIMIT_BYTES`.
pub(crate) fn readable(line: &[u8]) -> String {
    // Cut first, so that a line of megabytes costs no more than a short one.
    let (head, more) = line.split_at(line.len().min(TEXT_LIMIT_BYTES));
    let mut text = strip_controls(&String::from_utf8_lossy(head));
    text.truncate(text.trim_end().len());
    if !more.is_empty() {
        // The cut may have gone through a character.
        text.truncate(text.trim_end_matches('\u{fffd}').len());
        text.push_str(&format!(" ... ({} bytes more)", more.len()));
    }
    text
}

/// Escape sequences (`ESC [ 2 K`) go as a whole; tabs and line ends inside a message stay.
fn strip_controls(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' if characters.peek() == Some(&'[') => {
                characters.next();
                // Parameters, then one final letter.
                for part in characters.by_ref() {
                    if ('@'..='~').contains(&part) {
                        break;
                    }
                }
            }
            '\t' | '\n' => stripped.push(character),
            _ if character.is_control() => {}
            _ => stripped.push(character),
        }
    }
    stripped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_would_obey_is_gone() {
        for (bytes, text) in [
            (&b"\x1b[2Ksignal interrupt received, cleaning up\n"[..], "signal interrupt received, cleaning up"),
            (b"\rsignal interrupt received, cleaning up ", "signal interrupt received, cleaning up"),
            (b"\x1b[1;31mred\x1b[0m \x07bell\x1b", "red bell"),
            (b"a\tb\xe9", "a\tb\u{fffd}"),
            (b"", ""),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let text = readable("é".repeat(TEXT_LIMIT_BYTES).as_bytes());
        assert!(text.ends_with("é ... (16384 bytes more)"), "{}", &text[text.len() - 40..]);
        let text = readable(format!("x{}", "é".repeat(TEXT_LIMIT_BYTES)).as_bytes());
        assert!(text.ends_with("é ... (16385 bytes more)"), "{}", &text[text.len() - 40..]);
    }
}
