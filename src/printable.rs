//! Pure. Text of others (file names, log lines, errors, answers) as it may be shown on a terminal, and as JSON. The command line
//! prints no such text without these. Does not judge what the text says.

use std::fmt::Write as _;

use serde::Serialize;

/// The text without what drives a terminal, turns the direction of writing or breaks a line: that is shown as `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same of several lines, which stay lines.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A value as one line of JSON. JSON leaves all but the first 32 control characters as they are: here they are escaped too.
pub fn json_line(value: &impl Serialize) -> String {
    // What is printed is made of text, numbers and lists, and always has a JSON form.
    let json = serde_json::to_string(value).unwrap_or_default();
    if !json.chars().any(is_hostile) {
        return json;
    }
    // Such characters stand within strings only.
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_hostile(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line
}

/// Control characters (C0, DEL, C1), ends of lines and paragraphs, marks and isolates of writing direction, and invisible ones that
/// no language needs.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What a terminal obeys or a reader is deceived by, each with what must not come through.
    const CORPUS: [&str; 14] = [
        "\u{1b}[31mred\u{1b}[0m",
        "\u{1b}]0;title\u{7}",
        "\u{1b}]8;;http://example.org\u{1b}\\link\u{1b}]8;;\u{1b}\\",
        "\u{1b}P+q544e\u{1b}\\",
        "\u{9b}2J\u{9d}0;x\u{9c}",
        "over\rwritten",
        "back\u{8}\u{8}\u{8}\u{8}space",
        "two\nlines\u{b}\u{c}",
        "bell\u{7} null\u{0} delete\u{7f}",
        "shift\u{e}out\u{f}",
        "gpj.\u{202e}exe\u{202c}",
        "\u{2066}isolated\u{2069} \u{200f}mark\u{61c}",
        "next\u{85}line\u{2028}and\u{2029}paragraph",
        "tag\u{e0041}\u{e007f} bom\u{feff} note\u{fff9}x\u{fffa}y\u{fffb}",
    ];

    #[test]
    fn nothing_of_the_corpus_comes_through_and_all_of_it_can_be_read() {
        for text in CORPUS {
            let shown = printable(text);
            assert!(!shown.chars().any(is_hostile), "{shown:?}");
            assert!(shown.contains("\\u{"), "{shown:?}");
            let line = json_line(&json!({ text: [text] }));
            assert!(!line.chars().any(is_hostile), "{line:?}");
            let read: Value = serde_json::from_str(&line).expect("still JSON");
            assert_eq!(read[text][0], text, "and the same");
        }
        for code in (0..0x20).chain(0x7f..0xa0) {
            let c = char::from_u32(code).expect("a character");
            assert!(printable(&c.to_string()).starts_with("\\u{"), "{code:x}");
        }
    }

    #[test]
    fn ordinary_text_of_any_language_stays_as_it_is() {
        for text in ["/home/älice/Bücher", "日本語.txt", "שלום", "👩‍🚀 a\u{301}", "a\\b $HOME `x` %20", ""]
        {
            assert_eq!(printable(text), text);
            assert_eq!(json_line(&json!(text)), json!(text).to_string());
        }
    }

    #[test]
    fn lines_of_ones_own_stay_lines() {
        assert_eq!(printable_lines("a\nb\r\u{1b}c"), "a\nb\\u{d}\\u{1b}c");
    }
}
