//! Pure. Hides secrets in text that is shown: known ones, however they are written, and the passwords in URLs.
//! Does not know any secret: whoever has one passes it in.

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};

/// What stands where a secret was.
const MASK: &str = "***";

/// Shorter secrets would be found inside ordinary words, so they are only hidden where they stand alone.
const SHORTEST_ANYWHERE: usize = 4;

/// The text without the passwords of the URLs in it: `rest:https://alice:pw@host/` becomes
/// `rest:https://alice:***@host/`. A web URL's credentials without a colon are hidden whole: they are a token.
pub fn mask_url(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let authority = authority_length(after);
        if let Some(end) = after[..authority].rfind('@') {
            let credentials = &after[..end];
            match credentials.split_once(':') {
                Some((user, _)) => masked.extend([user, ":", MASK]),
                None if is_web(before) => masked.push_str(MASK),
                None => masked.push_str(credentials),
            }
            masked.push_str(&after[end..authority]);
        } else {
            masked.push_str(&after[..authority]);
        }
        rest = &after[authority..];
    }
    masked.push_str(rest);
    masked
}

fn is_web(before: &str) -> bool {
    before.ends_with("http://") || before.ends_with("https://")
}

/// How much of `text` (what follows "://") is user, password, host and port.
fn authority_length(text: &str) -> usize {
    let ends = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | '`') || c.is_whitespace();
    text.find(ends).unwrap_or(text.len())
}

/// The text with `***` for every secret in it, be it written as it is, percent-encoded (as in URLs), with JSON's escapes,
/// or in base64 (also as a part of what was encoded, as in a Basic authorization). Secrets shorter than four characters are
/// only replaced where they are a whole word. An empty secret hides nothing.
pub fn mask_secrets(text: &str, secrets: &[&str]) -> String {
    let mut hidden: Vec<(usize, usize)> = Vec::new();
    for secret in secrets.iter().map(|secret| secret.trim_end_matches(['\r', '\n'])).filter(|secret| !secret.is_empty())
    {
        let whole_words = secret.chars().count() < SHORTEST_ANYWHERE;
        let characters: Vec<char> = secret.chars().collect();
        for (start, _) in text.char_indices() {
            if let Some(end) = match_end(text, start, &characters)
                && (!whole_words || stands_alone(text, start, end))
            {
                hidden.push((start, end));
            }
        }
        for form in base64_forms(secret) {
            hidden.extend(text.match_indices(&form).map(|(start, found)| (start, start + found.len())));
        }
    }
    replace(text, hidden)
}

/// Replaces each run of overlapping ranges once.
fn replace(text: &str, mut hidden: Vec<(usize, usize)>) -> String {
    if hidden.is_empty() {
        return text.to_owned();
    }
    hidden.sort_unstable();
    let mut masked = String::with_capacity(text.len());
    let mut shown_to = 0;
    for (start, end) in hidden {
        if start >= shown_to {
            masked.push_str(&text[shown_to..start]);
            masked.push_str(MASK);
        }
        shown_to = shown_to.max(end);
    }
    masked.push_str(&text[shown_to..]);
    masked
}

/// Where the longest writing of the secret that begins at `start` ends. All ways to write each character are followed at
/// once, because a secret may itself look like an escape.
fn match_end(text: &str, start: usize, secret: &[char]) -> Option<usize> {
    // Most positions end here, before anything is allocated.
    character_ends(text, start, *secret.first()?).into_iter().flatten().next()?;
    let mut ends = vec![start];
    for &character in secret {
        let mut next: Vec<usize> =
            ends.iter().flat_map(|&end| character_ends(text, end, character)).flatten().collect();
        next.sort_unstable();
        next.dedup();
        if next.is_empty() {
            return None;
        }
        ends = next;
    }
    ends.last().copied()
}

/// Where the character ends that begins at `at`: as it is, percent-encoded, JSON's short escape, JSON's \u escape.
fn character_ends(text: &str, at: usize, character: char) -> [Option<usize>; 4] {
    let rest = &text.as_bytes()[at..];
    let mut utf8 = [0; 4];
    let bytes = character.encode_utf8(&mut utf8).as_bytes();
    let literal = rest.starts_with(bytes).then(|| at + bytes.len());
    let percent = match rest.first() {
        Some(b'+') if character == ' ' => Some(at + 1),
        Some(b'%') => {
            let encoded = |(index, byte): (usize, &u8)| {
                let part = rest.get(3 * index..3 * index + 3);
                part.is_some_and(|part| part[0] == b'%' && hex_value(&part[1..]) == Some(u32::from(*byte)))
            };
            bytes.iter().enumerate().all(encoded).then_some(at + 3 * bytes.len())
        }
        _ => None,
    };
    let (mut short, mut unicode) = (None, None);
    if rest.first() == Some(&b'\\') {
        let escaped = match character {
            '\n' => b'n',
            '\r' => b'r',
            '\t' => b't',
            '\u{8}' => b'b',
            '\u{c}' => b'f',
            '"' | '\\' | '/' => bytes[0],
            _ => 0,
        };
        short = (escaped != 0 && rest.get(1) == Some(&escaped)).then_some(at + 2);
        let mut utf16 = [0; 2];
        let units = character.encode_utf16(&mut utf16);
        let encoded = |(index, unit): (usize, &u16)| {
            let part = rest.get(6 * index..6 * index + 6);
            part.is_some_and(|part| part.starts_with(b"\\u") && hex_value(&part[2..]) == Some(u32::from(*unit)))
        };
        unicode = units.iter().enumerate().all(encoded).then_some(at + 6 * units.len());
    }
    [literal, percent, short, unicode]
}

fn hex_value(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    ![before, after].into_iter().flatten().any(char::is_alphanumeric)
}

/// What base64 text has the secret in it, whatever stands before and after: three alignments, without the characters that
/// also depend on the neighbors.
fn base64_forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for shift in 0..3 {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(secret.as_bytes());
        let certain = (8 * shift).div_ceil(6)..8 * bytes.len() / 6;
        for encoding in [BASE64_NOPAD, BASE64URL_NOPAD] {
            let encoded = encoding.encode(&bytes);
            if shift == 0 && secret.chars().count() >= SHORTEST_ANYWHERE {
                forms.push(format!("{encoded}=="));
                forms.push(format!("{encoded}="));
                forms.push(encoded.clone());
            }
            // Fewer characters would be found by chance.
            if certain.len() >= 8 {
                forms.push(encoded[certain.clone()].to_owned());
            }
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64;
    use proptest::prelude::*;

    #[test]
    fn passwords_in_urls_are_masked_wherever_they_stand() {
        for (text, masked) in [
            ("rest:https://alice:pw@host:8000/a/", "rest:https://alice:***@host:8000/a/"),
            ("rest:https://alice:p@w:x@host/", "rest:https://alice:***@host/"),
            ("Head \"http://a:b@h/c\": refused, http://c:d@e", "Head \"http://a:***@h/c\": refused, http://c:***@e"),
            ("rest:https://token@host/", "rest:https://***@host/"),
            ("sftp://backup@host:22//srv", "sftp://backup@host:22//srv"),
            ("sftp:backup@host:/srv", "sftp:backup@host:/srv"),
            ("https://host/path@x:y", "https://host/path@x:y"),
            ("/srv/repo", "/srv/repo"),
            ("s3:https://s3.example.org/b?x=http://u:p@h", "s3:https://s3.example.org/b?x=http://u:***@h"),
        ] {
            assert_eq!(mask_url(text), masked);
        }
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let secret = "p ss/w\"ö\\1";
        for text in [
            "p ss/w\"ö\\1".to_owned(),
            "p%20ss%2Fw%22%C3%B6%5C1".to_owned(),
            "p%20ss%2fw%22%c3%b6%5c1".to_owned(),
            "p+ss/w%22%C3%B6%5C1".to_owned(),
            serde_json::to_string(secret).expect("text is JSON").trim_matches('"').to_owned(),
            "p\\u0020ss\\/w\\u0022\\u00f6\\u005c1".to_owned(),
            BASE64.encode(secret.as_bytes()),
            BASE64URL_NOPAD.encode(secret.as_bytes()),
        ] {
            assert_eq!(mask_secrets(&format!("a {text} b"), &[secret]), "a *** b", "{text}");
        }
    }

    #[test]
    fn a_secret_inside_a_basic_authorization_is_hidden() {
        for user in ["a", "al", "ali"] {
            let basic = BASE64.encode(format!("{user}:correct-horse-battery").as_bytes());
            let masked = mask_secrets(&format!("authorization: Basic {basic}"), &["correct-horse-battery"]);
            assert!(masked.contains("***"), "{masked}");
            assert!(masked.len() < basic.len(), "{masked}");
        }
    }

    #[test]
    fn short_secrets_are_hidden_only_where_they_stand_alone() {
        assert_eq!(mask_secrets("pw=abc abcd", &["abc"]), "pw=*** abcd");
        assert_eq!(mask_secrets("abcd", &["abcd"]), "***");
        assert_eq!(mask_secrets("nothing", &[""]), "nothing");
        assert_eq!(mask_secrets("line correct", &["correct\n"]), "line ***");
    }

    #[test]
    fn secrets_that_overlap_or_repeat_are_hidden_whole() {
        assert_eq!(mask_secrets("xabcdefx", &["abcd", "cdef"]), "x***x");
        assert_eq!(mask_secrets("abababa", &["abab"]), "***a");
        assert_eq!(mask_secrets("hunter2hunter2", &["hunter2"]), "******");
    }

    #[test]
    fn a_secret_of_nothing_but_escapes_costs_no_more() {
        let secret = format!("{}x", "\\".repeat(60));
        let text = "\\".repeat(500);
        assert_eq!(mask_secrets(&text, &[&secret]), text);
    }

    proptest! {
        #[test]
        fn no_secret_survives_in_any_surroundings(secret in "[^*\r\n]{4,20}", before in ".{0,20}", after in ".{0,20}") {
            let json = serde_json::to_string(&secret).expect("text is JSON");
            for written in [secret.as_str(), &json[1..json.len() - 1]] {
                let masked = mask_secrets(&format!("{before}{written}{after}"), &[&secret]);
                prop_assert!(!masked.contains(&secret), "{}", masked);
                prop_assert!(masked.contains("***"));
            }
        }

        #[test]
        fn text_without_secrets_stays_as_it_is(text in "[a-m ]{0,80}") {
            prop_assert_eq!(mask_secrets(&text, &["xyzzy", "nop"]), text);
        }
    }
}
