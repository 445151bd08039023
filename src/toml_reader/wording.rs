//! Pure. How what somebody wrote is told back: the nearest known word, quoted text, nothing longer than a line.

/// The nearest of `known` to what was written, if it is near enough to be meant.
pub fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let length = written.chars().take(81).count();
    if length > 80 {
        return None;
    }
    known
        .into_iter()
        .filter(|name| name.len().abs_diff(written.len()) <= 3)
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= 1.max(length.min(name.len()) / 3))
        .min()
        .map(|(_, name)| name)
}

/// What was written, quoted, without control characters and not longer than a line.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Text that needs no quotes, not longer than a line.
pub(super) fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(nearest("tag", ["tags", "paths"]), Some("tags"));
        assert_eq!(nearest("exlcudes", ["excludes", "paths"]), Some("excludes"));
        assert_eq!(nearest("zebra", ["tags", "paths"]), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), ["tags"]), None);
    }
}
