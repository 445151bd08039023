//! Pure. Markup that cannot forget to escape: text becomes markup only by the one function below, names of elements and attributes are the
//! program's own words, and links are built of encoded parts. What could mislead a reader (control and bidirectional characters)
//! is shown as its number. Does not know pages.

use std::fmt::{self, Display, Write as _};

/// Finished markup. Only this module makes it of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

/// What may stand within an element. Text is escaped wherever it stands.
pub trait Content {
    fn add_to(self, out: &mut Html);
}

/// An element that is being built: first attributes, then content.
#[derive(Debug)]
pub struct El {
    tag: &'static str,
    out: Html,
    is_open: bool,
}

/// A link to a place of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link(String);

/// Elements that have no content and no end.
const VOID: [&str; 5] = ["br", "hr", "input", "link", "meta"];

/// A new element.
pub fn el(tag: &'static str) -> El {
    El { tag, out: Html(format!("<{tag}")), is_open: true }
}

/// All of these, one after the other.
pub fn all<C: Content>(parts: impl IntoIterator<Item = C>) -> Html {
    let mut out = Html::default();
    parts.into_iter().for_each(|part| part.add_to(&mut out));
    out
}

impl Html {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, part: impl Content) {
        part.add_to(self);
    }

    /// A whole document with this root element.
    pub fn document(root: El) -> String {
        let mut out = Self("<!doctype html>\n".to_owned());
        out.add(root);
        out.0.push('\n');
        out.0
    }
}

impl El {
    /// An attribute. Not for links (`link`), and none that would run something.
    pub fn attr(self, name: &'static str, value: impl Display) -> Self {
        debug_assert!(
            !name.starts_with("on") && !matches!(name, "href" | "src" | "action" | "style" | "srcdoc"),
            "{name}"
        );
        self.write_attr(name, |out| escape(&value.to_string(), Odd::Shown, out))
    }

    /// An attribute that a program reads back, as the name of a file in a checkbox: nothing in it is changed.
    pub fn exact_attr(self, name: &'static str, value: &str) -> Self {
        debug_assert!(name == "value" || name.starts_with("data-"), "{name}");
        self.write_attr(name, |out| escape(value, Odd::Kept, out))
    }

    pub fn class(self, names: &str) -> Self {
        self.attr("class", names)
    }

    /// An attribute that is there or not.
    pub fn flag(mut self, name: &'static str, is_there: bool) -> Self {
        if is_there {
            debug_assert!(self.is_open, "attributes come before content");
            let _ = write!(self.out.0, " {name}");
        }
        self
    }

    /// `href`, `src`, `action` or a `data-` attribute that leads somewhere.
    pub fn link(self, name: &'static str, to: &Link) -> Self {
        self.write_attr(name, |out| escape(&to.0, Odd::Kept, out))
    }

    pub fn with(mut self, content: impl Content) -> Self {
        self.begin_content();
        content.add_to(&mut self.out);
        self
    }

    fn write_attr(mut self, name: &'static str, write: impl FnOnce(&mut String)) -> Self {
        debug_assert!(self.is_open, "attributes come before content");
        let _ = write!(self.out.0, " {name}=\"");
        write(&mut self.out.0);
        self.out.0.push('"');
        self
    }

    fn begin_content(&mut self) {
        debug_assert!(!VOID.contains(&self.tag), "{} has no content", self.tag);
        if self.is_open {
            self.out.0.push('>');
            self.is_open = false;
        }
    }

    fn finished(mut self) -> String {
        if VOID.contains(&self.tag) {
            self.out.0.push('>');
        } else {
            self.begin_content();
            let _ = write!(self.out.0, "</{}>", self.tag);
        }
        self.out.0
    }
}

impl Link {
    /// A path as the program knows it; what comes from elsewhere is added to it.
    pub fn to(path: &'static str) -> Self {
        debug_assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
        Self(path.to_owned())
    }

    /// One more segment.
    pub fn segment(mut self, text: impl Display) -> Self {
        if !self.0.ends_with('/') {
            self.0.push('/');
        }
        percent_encode(&text.to_string(), &mut self.0);
        self
    }

    /// One more parameter of the query.
    pub fn query(mut self, name: &'static str, value: impl Display) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        percent_encode(&value.to_string(), &mut self.0);
        self
    }

    /// A part of that page, by its id.
    pub fn part(mut self, id: &'static str) -> Self {
        self.0.push('#');
        self.0.push_str(id);
        self
    }

    /// A part of the same page, by its id.
    pub fn here(id: &'static str) -> Self {
        Self(format!("#{id}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Content for &str {
    fn add_to(self, out: &mut Html) {
        escape(self, Odd::Shown, &mut out.0);
    }
}

impl Content for String {
    fn add_to(self, out: &mut Html) {
        self.as_str().add_to(out);
    }
}

impl Content for &String {
    fn add_to(self, out: &mut Html) {
        self.as_str().add_to(out);
    }
}

impl Content for Html {
    fn add_to(self, out: &mut Html) {
        out.0.push_str(&self.0);
    }
}

impl Content for El {
    fn add_to(self, out: &mut Html) {
        out.0.push_str(&self.finished());
    }
}

impl Content for () {
    fn add_to(self, _: &mut Html) {}
}

impl<C: Content> Content for Option<C> {
    fn add_to(self, out: &mut Html) {
        if let Some(content) = self {
            content.add_to(out);
        }
    }
}

impl<C: Content> Content for Vec<C> {
    fn add_to(self, out: &mut Html) {
        self.into_iter().for_each(|content| content.add_to(out));
    }
}

macro_rules! tuple_content {
    ($($name:ident)+) => {
        impl<$($name: Content),+> Content for ($($name,)+) {
            fn add_to(self, out: &mut Html) {
                #[allow(non_snake_case, reason = "a name for each part")]
                let ($($name,)+) = self;
                $($name.add_to(out);)+
            }
        }
    };
}
tuple_content!(A B);
tuple_content!(A B C);
tuple_content!(A B C D);
tuple_content!(A B C D E);
tuple_content!(A B C D E F);
tuple_content!(A B C D E F G);
tuple_content!(A B C D E F G H);

/// What becomes of characters that could mislead a reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Odd {
    Shown,
    Kept,
}

/// The only way from text to markup. For content and for attributes in double quotes alike.
fn escape(text: &str, odd: Odd, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Within an attribute a parser would make a line feed of it.
            '\r' if odd == Odd::Kept => out.push_str("&#13;"),
            c if odd == Odd::Shown && misleads(c) => {
                let _ = write!(out, "\u{27e8}U+{:04X}\u{27e9}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// Characters that are not seen, or turn around how their neighbours are seen. Joiners are letters' own in some scripts.
fn misleads(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}' => true,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' => true,
        '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control(),
    }
}

fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Text as an agent that means harm would send it: each begins another element, ends an attribute, or turns the text around.
    pub(crate) const HOSTILE: [&str; 12] = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\" onmouseover=\"alert(1)",
        "' onfocus='alert(1)' autofocus='",
        "javascript:alert(1)",
        "</textarea></title></style></pre><svg onload=alert(1)>",
        "&lt;script&gt;&#60;script&#62;",
        "evil\u{202e}gpj.exe",
        "\u{2066}a\u{2069}\u{200f}\u{61c}",
        "a\u{0}b\u{1b}[2Jc\u{7f}\u{85}",
        "<!--<script>",
        "]]><x xmlns='http://www.w3.org/1999/xhtml'>",
    ];

    /// Fails where the markup has an element or attribute that the text brought with it, or a character that misleads.
    pub(crate) fn assert_tame(markup: &str) {
        let lower = markup.to_lowercase();
        for found in ["<script>", "<img", "<svg onload", "<x xmlns", "<!--", " onerror=", " onload=", "]]>"] {
            let at = lower.find(found);
            let is_within = at.is_some_and(|at| found.starts_with(' ') && !is_in_tag(&lower, at));
            assert!(at.is_none() || is_within, "{found} in {markup}");
        }
        for found in ["onmouseover=", "onfocus="] {
            assert!(!lower.match_indices(found).any(|(at, _)| is_in_tag(&lower, at)), "{found} in {markup}");
        }
        assert!(!lower.contains("href=\"javascript"), "{markup}");
    }

    /// Whether this place is between `<` and `>`, outside of quotes.
    fn is_in_tag(markup: &str, at: usize) -> bool {
        let Some(open) = markup[..at].rfind('<') else { return false };
        let inside = &markup[open..at];
        !inside.contains('>') && inside.matches('"').count().is_multiple_of(2)
    }

    #[test]
    fn text_never_becomes_markup_wherever_it_stands() {
        for text in HOSTILE {
            let built =
                el("p").attr("title", text).class(text).with(text).with(Some(text.to_owned())).with(el("b").with(text));
            let markup = all([built]).to_string();
            assert_tame(&markup);
            assert_eq!(markup.matches('<').count(), 4, "{markup}");
            assert!(!markup.chars().any(misleads), "{markup:?}");
            let link = all([el("a").link("href", &Link::to("/hosts").segment(text).query("path", text)).with("x")])
                .to_string();
            assert_tame(&link);
            assert_eq!(link.matches('"').count(), 2, "{link}");
        }
    }

    #[test]
    fn what_a_program_reads_back_is_as_it_was() {
        for text in HOSTILE.iter().chain(&["a\r\nb", "\u{202e}"]).filter(|text| !text.contains('\0')) {
            let markup = all([el("input").exact_attr("value", text)]).to_string();
            let value = markup
                .strip_prefix("<input value=\"")
                .and_then(|rest| rest.strip_suffix("\">"))
                .expect("one attribute");
            let mut read = value.to_owned();
            for (entity, c) in
                [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#13;", "\r"), ("&amp;", "&")]
            {
                read = read.replace(entity, c);
            }
            assert_eq!(read, **text);
        }
    }

    #[test]
    fn an_element_is_what_was_asked_for() {
        let list =
            el("ul").class("a").flag("hidden", true).flag("inert", false).with(vec![el("li").with("1 < 2"), el("li")]);
        assert_eq!(all([list]).to_string(), "<ul class=\"a\" hidden><li>1 &lt; 2</li><li></li></ul>");
        assert_eq!(all([el("br")]).to_string(), "<br>");
        assert!(Html::document(el("html")).starts_with("<!doctype html>\n<html></html>"));
        let link = Link::to("/jobs").segment("a/b").query("x", "1&2").query("y", "é +");
        assert_eq!(link.as_str(), "/jobs/a%2Fb?x=1%262&y=%C3%A9%20%2B");
        assert_eq!(Link::here("main").as_str(), "#main");
    }

    #[test]
    fn what_misleads_is_shown_by_its_number_and_letters_stay() {
        let shown = |text: &str| all([text]).to_string();
        assert_eq!(shown("a\u{202e}b"), "a\u{27e8}U+202E\u{27e9}b");
        assert_eq!(shown("tab\tline\nnul\0"), "tab\tline\nnul\u{27e8}U+0000\u{27e9}");
        for kept in ["Grüße", "日本語", "שלום", "می\u{200c}خواهم", "👩\u{200d}👩"] {
            assert_eq!(shown(kept), kept);
        }
    }
}
