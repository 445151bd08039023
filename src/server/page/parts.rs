//! Pure. The pages' static parts: one style sheet, one script, one icon. Their names have a hash of what is in them, so that a browser may keep
//! each for ever.

use std::sync::LazyLock;

use super::html::Link;
use crate::server::access::sha256_hex;

/// One of them.
pub struct Part {
    /// `style-0123456789ab.css`.
    pub name: String,
    pub content_type: &'static str,
    pub text: &'static str,
}

pub static STYLE: LazyLock<Part> =
    LazyLock::new(|| Part::new("style", "css", "text/css; charset=utf-8", include_str!("page.css")));
pub static SCRIPT: LazyLock<Part> =
    LazyLock::new(|| Part::new("script", "js", "text/javascript; charset=utf-8", include_str!("page.js")));
pub static ICON: LazyLock<Part> = LazyLock::new(|| Part::new("icon", "svg", "image/svg+xml", include_str!("icon.svg")));

impl Part {
    fn new(name: &str, ending: &str, content_type: &'static str, text: &'static str) -> Self {
        let hash = sha256_hex(text.as_bytes());
        Self { name: format!("{name}-{}.{ending}", &hash[..12]), content_type, text }
    }

    pub fn link(&self) -> Link {
        Link::to("/page").segment(&self.name)
    }
}

/// The part of this name.
pub fn part(name: &str) -> Option<&'static Part> {
    [&STYLE, &SCRIPT, &ICON].into_iter().map(|part| &**part).find(|part| part.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_by_its_name_and_by_no_other() {
        for one in [&*STYLE, &*SCRIPT, &*ICON] {
            assert!(part(&one.name).is_some_and(|found| std::ptr::eq(found, one)));
        }
        for none in ["", "style.css", "style-000000000000.css", "../page.css"] {
            assert!(part(none).is_none(), "{none}");
        }
    }

    #[test]
    fn nothing_in_them_leads_to_another_server() {
        for one in [&*STYLE, &*SCRIPT, &*ICON] {
            let text = one.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("url("), "{}", one.name);
            assert!(!text.contains("innerHTML") && !text.contains("eval("), "{}", one.name);
        }
    }
}
