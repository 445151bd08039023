//! Pure. Text that is a secret by itself, such as the address of a webhook: written as it is, or referred to. What is shown of a
//! written one tells whether it is another one, and not what it is. Does not read the secret.

use std::fmt;

use sha2::{Digest, Sha256};

use super::raw::read_reference;
use super::{SecretRef, SecretSource};
use crate::toml_reader::{Placed, TableReader};

/// Shown without what is secret in it.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretText {
    Written(String),
    Secret(SecretSource),
}

impl SecretText {
    /// Where it is kept, if not in the configuration.
    pub fn source(&self) -> Option<&SecretSource> {
        match self {
            Self::Written(_) => None,
            Self::Secret(source) => Some(source),
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(text) => f.write_str(&masked_address(text)),
            Self::Secret(source) => source.fmt(f),
        }
    }
}

/// What stands before the digits by which one hidden text is told from another.
const HIDDEN: &str = "***";

/// `https://hooks.example.org/***0a1b2c3d`: the path hidden, with a part of the whole's hash. What is hidden already stays as it is.
pub fn masked_address(text: &str) -> String {
    let start = match text.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            // A login would be secret too.
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/")
        }
        None => String::new(),
    };
    if text.strip_prefix(&start).is_some_and(|rest| rest.starts_with(HIDDEN) && rest.len() == HIDDEN.len() + 8) {
        return text.to_owned();
    }
    let digest = Sha256::digest(text.as_bytes());
    format!("{start}{HIDDEN}{}", data_encoding::HEXLOWER.encode(digest.get(..4).unwrap_or_default()))
}

/// A file's text with what these keys have as text hidden, however it is quoted.
pub fn with_keys_masked(text: &str, keys: &[&str]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let next = keys.iter().filter_map(|key| rest.find(key).map(|at| (at, key.len()))).min();
        let Some((at, length)) = next else { break };
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let (before, after) = (&rest[..at], &rest[at + length..]);
        let value = after.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=').map(str::trim_start);
        let is_key = !before.ends_with(is_word) && !after.starts_with(is_word);
        let quoted = value.filter(|_| is_key).and_then(quoted);
        let Some((lead, content)) = quoted else {
            masked.push_str(&rest[..at + length]);
            rest = after;
            continue;
        };
        // Offsets within `rest`: what follows the key up to the content, then the content.
        let start = rest.len() - value.map_or(0, str::len) + lead;
        masked.push_str(&rest[..start]);
        masked.push_str(&masked_address(content));
        rest = &rest[start + content.len()..];
    }
    masked.push_str(rest);
    masked
}

/// How many bytes the quotes at the text's beginning are, and what they enclose.
fn quoted(text: &str) -> Option<(usize, &str)> {
    let delimiter = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|delimiter| text.starts_with(delimiter))?;
    let content = &text[delimiter.len()..];
    let mut from = 0;
    loop {
        let end = from + content[from..].find(delimiter)?;
        let slashes = content[..end].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if delimiter.starts_with('\'') || slashes % 2 == 0 {
            return Some((delimiter.len(), &content[..end]));
        }
        from = end + 1;
    }
}

/// Text, or a reference to a secret that is the text. A written one follows the rule, which does not repeat it.
pub(super) fn read_secret_text<'d>(
    table: &mut TableReader<'d>,
    key: &'d str,
    rule: impl Fn(&str) -> Result<(), String>,
) -> Option<Placed<SecretText>> {
    let file = table.file().to_owned();
    let written = |reader: &mut TableReader<'d>, text: Placed<String>| match rule(&text.value) {
        Ok(()) => Some(Ok(text.value)),
        Err(message) => {
            reader.error(text.place, format!("{key} {message}"));
            None
        }
    };
    let found = table.text_or_table(key, written, |table| read_reference(table, key).map(Err))?;
    let place = found.place;
    let value = match found.value? {
        Ok(text) => SecretText::Written(text),
        Err(secret) => SecretText::Secret(SecretSource { secret, file, place }),
    };
    Some(Placed { value, place })
}

/// As `difference` shows it.
pub(super) fn told(text: &SecretText) -> serde_json::Value {
    match text {
        SecretText::Written(text) => masked_address(text).into(),
        SecretText::Secret(source) => super::fields::of_secret(source),
    }
}

/// A web address without a login. What is wrong is told without it.
pub(super) fn web_address(text: &str) -> Result<(), String> {
    check_address(text)
}

/// The same for addresses that were read just now.
pub fn check_address(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err("has to begin with https:// (or http://)".to_owned());
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.starts_with(':') {
        return Err("names no server".to_owned());
    }
    if authority.contains('@') {
        return Err("must not have a user or password in it".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['"', '\\', '<', '>', '#']) {
        return Err("has characters that no URL has: percent-encode them".to_owned());
    }
    Ok(())
}

/// A schedule's `ping_url`: an address in which `{host}` may stand.
pub(super) fn read_ping_url(table: &mut TableReader<'_>) -> Option<Placed<SecretText>> {
    let rule = |text: &str| {
        super::rules::placeholders(text)?;
        web_address(&text.replace("{host}", "host"))
    };
    let url = read_secret_text(table, "ping_url", rule)?;
    if let Some(Err(message)) = url.value.source().map(|source| check_own(source, true)) {
        table.error(url.place, message);
        return None;
    }
    Some(url)
}

/// The secrets that a server reads itself: neither the agents' nor ones that are another for each host, unless that is allowed.
pub(super) fn check_own(source: &SecretSource, per_host: bool) -> Result<(), String> {
    match &source.secret {
        SecretRef::Agent(_) => {
            Err("the server needs this secret itself: write file or command in place of agent".to_owned())
        }
        SecretRef::File(path) if !per_host && path.contains("{host}") => {
            Err("{host} stands for no host here: name the file without it".to_owned())
        }
        SecretRef::File(_) | SecretRef::Command(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_hidden_but_for_its_server_and_hidden_twice_is_the_same() {
        let masked = masked_address("https://hooks.example.org/T00/hunter2?x=1");
        assert!(masked.starts_with("https://hooks.example.org/***") && !masked.contains("hunter2"), "{masked}");
        assert_eq!(masked_address(&masked), masked);
        assert_ne!(masked_address("https://hooks.example.org/a"), masked_address("https://hooks.example.org/b"));
        assert!(masked_address("https://u:hunter2@h/").starts_with("https://h/***"));
        assert!(masked_address("hunter2").starts_with("***"));
    }

    #[test]
    fn every_way_of_quoting_a_key_is_masked_and_other_keys_are_not() {
        for line in [
            "ping_url = \"https://h/hunter2\"",
            "ping_url='https://h/hunter2'",
            "{ id = \"x\", ping_url = \"\"\"https://h/hunter2\"\"\" }",
            "\"ping_url\" = 'https://h/hunter2'",
            "ping_url = \"https://h/hunter2\\\"hunter2\" # \"",
        ] {
            let masked = with_keys_masked(line, &["ping_url"]);
            assert!(masked.contains("https://h/***") && !masked.contains("hunter2"), "{masked}");
            assert_eq!(with_keys_masked(&masked, &["ping_url"]), masked);
        }
        for line in ["package_url = \"https://h/x\"", "url = { file = \"/run/x\" }", "# url", "curl = \"x\" url"] {
            assert_eq!(with_keys_masked(line, &["url"]), line);
        }
    }

    #[test]
    fn a_web_address_has_a_server_and_no_login() {
        for good in ["https://hooks.example.org/T/B?x=%20", "http://ntfy.lan:8080/backups"] {
            assert_eq!(web_address(good), Ok(()), "{good}");
        }
        for bad in ["", "hooks.example.org", "https://", "https://u:p@h/", "https://h/a b", "https://h/\n", "ftp://h/"]
        {
            let message = web_address(bad).expect_err(bad);
            assert!(!message.contains("u:p"), "{message}");
        }
    }
}
