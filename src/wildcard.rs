//! Pure. Patterns in which `*` is any run of characters and everything else itself: host limits of tokens, and the agent's
//! permitted repositories. Does not know what is matched.

/// Whether the whole text fits the pattern. Greedy with one step back: linear in practice, and never worse than pattern times
/// text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run_of_characters() {
        for (pattern, text, fits) in [
            ("a*b*c", "a123b456c", true),
            ("a*b*c", "acb", false),
            ("web-*", "web-1", true),
            ("web-*", "db-web-1", false),
            ("web", "web-1", false),
            ("*-eu-*", "web-eu-1", true),
            ("*-eu-*", "web-us-1", false),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
            ("**", "", true),
            ("*a", "aaab", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
