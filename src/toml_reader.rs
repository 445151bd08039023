//! Pure. Reads what a person wrote as TOML: every value with its place, every problem at once.
//! A key is known because it was asked for; what nobody asked for is a problem with a suggestion.
//! Does not know which keys a file has: its callers do. Does not read files.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::Problem;

mod place;
mod wording;

use place::Document;
pub use place::{Place, Placed};
use wording::clipped;
pub use wording::{nearest, shown};

/// Reads one file. `read` asks for what it knows; the rest becomes problems. Where the text is no TOML, only that
/// is told, with its places: what else looks wrong may come from the same slip. `read` then sees what could be
/// recovered, and the second value is false.
pub fn read_document<T>(
    file: &str,
    text: &str,
    problems: &mut Vec<Problem>,
    read: impl FnOnce(&mut TableReader<'_>) -> T,
) -> (T, bool) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let document = Document::new(file, text);
    for error in &errors {
        let place = error.span().map_or(Place::FILE, |span| document.place(span.start));
        document.add(place.error(file, format!("not valid TOML: {}", error.message())));
    }
    let syntax_problems = document.problems.borrow().len();
    let mut reader = TableReader::new(&document, table.get_ref(), Place::FILE, String::new());
    let value = read(&mut reader);
    reader.tell_unknown();
    let mut found = document.problems.into_inner();
    if !errors.is_empty() {
        found.truncate(syntax_problems);
        found.dedup_by(|a, b| (a.line, a.column) == (b.line, b.column));
    }
    problems.append(&mut found);
    (value, errors.is_empty())
}

/// A table while it is read. Each question marks its key as known and answers `None` where the key is absent
/// or (then there is a problem) wrong.
pub struct TableReader<'d> {
    document: &'d Document<'d>,
    table: &'d DeTable<'d>,
    place: Place,
    /// "tls" for what stands in `[tls]`; empty for the file's top.
    name: String,
    known: Vec<&'d str>,
    open: bool,
}

type Value<'d> = Spanned<DeValue<'d>>;

impl<'d> TableReader<'d> {
    fn new(document: &'d Document<'d>, table: &'d DeTable<'d>, place: Place, name: String) -> Self {
        Self { document, table, place, name, known: Vec::new(), open: false }
    }

    /// Where the table begins; the whole file for the outermost.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The name of the file that is read.
    pub fn file(&self) -> &'d str {
        self.document.file
    }

    /// Adds an error at a place in this file.
    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.document.add(place.error(self.document.file, message));
    }

    /// Adds a warning at a place in this file.
    pub fn warning(&self, place: Place, message: impl Into<String>) {
        self.document.add(place.warning(self.document.file, message));
    }

    /// Adds the error that a key is absent. `example` shows how to write it.
    pub fn missing(&self, key: &str, example: &str) {
        self.error(self.place, format!("{} is missing: write for example {example}", self.path(key)));
    }

    /// Where a key's value stands, if there is one. Does not mark the key as known.
    pub fn place_of(&self, key: &str) -> Option<Place> {
        self.table.get(key).map(|value| self.place_of_value(value))
    }

    pub fn string(&mut self, key: &'d str) -> Option<Placed<String>> {
        let (value, place) = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Placed { value: text.to_owned(), place }),
            None => self.wrong_type(key, value, "text in quotes"),
        }
    }

    pub fn boolean(&mut self, key: &'d str) -> Option<Placed<bool>> {
        let (value, place) = self.value(key)?;
        match value.get_ref().as_bool() {
            Some(value) => Some(Placed { value, place }),
            None => self.wrong_type(key, value, "true or false"),
        }
    }

    /// A whole number in a range.
    pub fn integer(&mut self, key: &'d str, range: RangeInclusive<u64>) -> Option<Placed<u64>> {
        let (value, place) = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            return self.wrong_type(key, value, "a whole number");
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) if range.contains(&value) => Some(Placed { value, place }),
            _ => {
                let (low, high) = (range.start(), range.end());
                let wanted = if *high == u64::MAX { format!("{low} or more") } else { format!("{low} to {high}") };
                self.error(place, format!("{} must be {wanted}, not {}", self.path(key), clipped(integer.as_str())));
                None
            }
        }
    }

    /// Text with a meaning of its own: a span, a name, a kind, an address. The type says what is wrong.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'d str) -> Option<Placed<T>> {
        let text = self.string(key)?;
        self.parse(key, &text)
    }

    /// A list of such text; what is wrong in it is left out.
    pub fn parsed_list<T: FromStr<Err: Display>>(&mut self, key: &'d str) -> Option<Vec<Placed<T>>> {
        let texts = self.strings(key)?;
        Some(texts.value.iter().filter_map(|text| self.parse(key, text)).collect())
    }

    fn parse<T: FromStr<Err: Display>>(&self, key: &str, text: &Placed<String>) -> Option<Placed<T>> {
        match text.value.parse() {
            Ok(value) => Some(Placed { value, place: text.place }),
            Err(error) => {
                self.error(text.place, format!("{}: {error}", self.path(key)));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'d str, choices: &[(&'static str, T)]) -> Option<Placed<T>> {
        let text = self.string(key)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(Placed { value: *value, place: text.place });
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let hint =
            nearest(&text.value, words.iter().copied()).map_or(String::new(), |w| format!("; did you mean {w:?}?"));
        let message = format!("{} is one of {}, not {}{hint}", self.path(key), words.join(", "), shown(&text.value));
        self.error(text.place, message);
        None
    }

    /// A list of texts; what is no text is left out.
    pub fn strings(&mut self, key: &'d str) -> Option<Placed<Vec<Placed<String>>>> {
        let (value, place) = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            return self.wrong_type(key, value, "a list of texts such as [\"a\", \"b\"]");
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Placed { value: text.to_owned(), place: self.place_of_value(item) }),
                None => {
                    self.wrong_type::<()>(key, item, "a list of texts in quotes");
                }
            }
        }
        Some(Placed { value: texts, place })
    }

    /// A table that has its own keys.
    pub fn table<T>(&mut self, key: &'d str, read: impl FnOnce(&mut TableReader<'d>) -> T) -> Option<Placed<T>> {
        let (value, place) = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong_type(key, value, "a table such as { name = \"value\" }");
        };
        Some(Placed { value: self.read_table(table, place, self.path(key), read), place })
    }

    /// Either text or a table that has its own keys.
    pub fn text_or_table<T>(
        &mut self,
        key: &'d str,
        text: impl FnOnce(&mut Self, Placed<String>) -> T,
        read: impl FnOnce(&mut TableReader<'d>) -> T,
    ) -> Option<Placed<T>> {
        let (value, place) = self.value(key)?;
        if let Some(table) = value.get_ref().as_table() {
            return Some(Placed { value: self.read_table(table, place, self.path(key), read), place });
        }
        match value.get_ref().as_str() {
            Some(found) => Some(Placed { value: text(self, Placed { value: found.to_owned(), place }), place }),
            None => self.wrong_type(key, value, "text in quotes or a table"),
        }
    }

    /// Tables written as `[[key]]`, in their order.
    pub fn tables<T>(&mut self, key: &'d str, mut read: impl FnMut(&mut TableReader<'d>) -> T) -> Vec<Placed<T>> {
        let Some((value, _)) = self.value(key) else { return Vec::new() };
        let wanted = format!("written as [[{}]], once for each", self.path(key));
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type::<()>(key, value, &wanted);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            let place = self.place_of_value(item);
            match item.get_ref().as_table() {
                Some(table) => {
                    tables.push(Placed { value: self.read_table(table, place, self.path(key), &mut read), place });
                }
                None => {
                    self.wrong_type::<()>(key, item, &wanted);
                }
            }
        }
        tables
    }

    /// A table whose keys are names of the person's choice, each with a text.
    pub fn texts_by_name(&mut self, key: &'d str) -> Option<Placed<BTreeMap<String, Placed<String>>>> {
        self.table(key, |table| {
            table.names().into_iter().filter_map(|name| Some((name.to_owned(), table.string(name)?))).collect()
        })
    }

    /// The keys of a table that has names of the person's choice; asking for one of them marks it as known.
    pub fn names(&self) -> Vec<&'d str> {
        self.table.keys().map(|key| key.get_ref().as_ref()).collect()
    }

    /// Tells where a key belongs that is known but stands in the wrong table.
    pub fn misplaced(&mut self, keys: &[&'d str], belongs: &str) {
        for key in keys {
            if let Some(place) = self.place_of_key(key) {
                self.known.push(key);
                self.error(place, format!("{} belongs {belongs}", self.path(key)));
            }
        }
    }

    /// Tells the unknown keys now instead of at the end, so that `problem_count` has them.
    pub fn report_unknown(&mut self) {
        self.tell_unknown();
        self.open = true;
    }

    /// How many problems this file has so far.
    pub fn problem_count(&self) -> usize {
        self.document.problems.borrow().len()
    }

    /// Takes whatever else the table has without a word.
    pub fn accept_anything(&mut self) {
        self.open = true;
    }

    fn value(&mut self, key: &'d str) -> Option<(&'d Value<'d>, Place)> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some((value, self.place_of_value(value)))
    }

    fn place_of_value(&self, value: &Value<'_>) -> Place {
        self.document.place(value.span().start)
    }

    fn place_of_key(&self, key: &str) -> Option<Place> {
        self.table.get_key_value(key).map(|(key, _)| self.document.place(key.span().start))
    }

    fn path(&self, key: &str) -> String {
        // A key that needs quotes may hold anything, so it is shown quoted.
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let key = if bare { clipped(key) } else { shown(key) };
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    fn wrong_type<T>(&self, key: &str, value: &Value<'_>, wanted: &str) -> Option<T> {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(self.place_of_value(value), format!("{} must be {wanted}, not {found}", self.path(key)));
        None
    }

    fn read_table<T>(
        &self,
        table: &'d DeTable<'d>,
        place: Place,
        name: String,
        read: impl FnOnce(&mut TableReader<'d>) -> T,
    ) -> T {
        let mut reader = TableReader::new(self.document, table, place, name);
        let value = read(&mut reader);
        reader.tell_unknown();
        value
    }

    fn tell_unknown(&self) {
        if self.open {
            return;
        }
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let hint = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("known here are {}", self.known.join(", ")),
            };
            self.error(self.document.place(key.span().start), format!("unknown key {}; {hint}", self.path(name)));
        }
    }
}

#[cfg(test)]
mod tests;
