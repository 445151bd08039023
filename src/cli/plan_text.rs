//! Pure itself. How `plan` shows differences: to people, hosts with the same change in one paragraph; as JSON, every host.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::plan_side::Side;
use crate::id::HostName;
use crate::printable::printable;
use crate::server::fleet::difference::{Difference, FieldChange, HostChange, ItemChange, What};

/// Hosts of a paragraph that are named.
const NAMED: usize = 5;

/// For people.
pub(super) fn write(
    old: &Side,
    new: &Side,
    difference: &Difference,
    color: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut paint = Paint { color, out };
    if !difference.server.is_empty() {
        paint.line("server.toml")?;
        paint.fields("  ", &difference.server)?;
    }
    for repository in &difference.repositories {
        paint.item("", "repository", repository)?;
    }
    for (hosts, change) in difference.grouped() {
        paint.hosts(&hosts, change)?;
    }
    paint.line(&summary(old, new, difference))
}

fn summary(old: &Side, new: &Side, difference: &Difference) -> String {
    let (from, to) = (old.shown(), new.shown());
    if difference.is_empty() {
        return format!("nothing changes from {from} to {to}");
    }
    let [added, removed, changed] = [What::Added, What::Removed, What::Changed].map(|what| difference.count(what));
    let hosts =
        format!("{added} added, {changed} changed, {removed} removed, {} as before", difference.unchanged_hosts);
    format!("from {from} to {to}: hosts: {hosts}")
}

struct Paint<'a, W> {
    color: bool,
    out: &'a mut W,
}

impl<W: Write> Paint<'_, W> {
    fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", printable(text))
    }

    /// A line that begins with its sign.
    fn signed(&mut self, indent: &str, sign: char, text: &str) -> io::Result<()> {
        let text = printable(text);
        let code = match sign {
            '+' => 32,
            '-' => 31,
            _ => 33,
        };
        if self.color {
            writeln!(self.out, "{indent}\u{1b}[{code}m{sign}\u{1b}[0m {text}")
        } else {
            writeln!(self.out, "{indent}{sign} {text}")
        }
    }

    fn fields(&mut self, indent: &str, fields: &[FieldChange]) -> io::Result<()> {
        fields.iter().try_for_each(|change| self.signed(indent, sign_of(change), &told(change)))
    }

    fn item(&mut self, indent: &str, kind: &str, item: &ItemChange) -> io::Result<()> {
        let name = &item.name;
        match item.what {
            What::Removed => self.signed(indent, '-', &format!("{kind} {name}")),
            What::Added => {
                let fields = item.fields.iter().filter(|change| !is_usual(change));
                let values = fields
                    .filter_map(|change| change.to.as_ref().map(|value| format!("{} {}", change.field, shown(value))));
                self.signed(indent, '+', &format!("{kind} {name}: {}", values.collect::<Vec<_>>().join(", ")))
            }
            What::Changed => item
                .fields
                .iter()
                .try_for_each(|change| self.signed(indent, '~', &format!("{kind} {name}: {}", told(change)))),
        }
    }

    fn hosts(&mut self, hosts: &[&HostName], change: &HostChange) -> io::Result<()> {
        let named: Vec<&str> = hosts.iter().take(NAMED).map(|host| host.as_str()).collect();
        let names = match hosts.len() {
            1 => format!("host {}", named.join("")),
            many if many > NAMED => format!("{many} hosts: {} and {} more", named.join(", "), many - NAMED),
            many => format!("{many} hosts: {}", named.join(", ")),
        };
        match change.what {
            What::Removed => return self.signed("", '-', &format!("{names}: disabled; history and snapshots stay")),
            What::Added => self.signed("", '+', &names)?,
            What::Changed => self.line(&names)?,
        }
        self.fields("  ", &change.settings)?;
        change.schedules.iter().try_for_each(|schedule| self.item("  ", "schedule", schedule))
    }
}

/// What is as nearly everybody has it, and said only where it changes.
fn is_usual(change: &FieldChange) -> bool {
    matches!(change.field.as_str(), "enabled" | "catch_up") && change.to == Some(Value::Bool(true))
}

fn sign_of(change: &FieldChange) -> char {
    match (&change.from, &change.to) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    }
}

/// "cron \"0 2 * * *\" -> \"0 3 * * *\"", or what came to a list and left it.
fn told(change: &FieldChange) -> String {
    let FieldChange { field, from, to } = change;
    let empty = Vec::new();
    let lists = match (from, to) {
        (Some(Value::Array(old)), Some(Value::Array(new))) => Some((old, new)),
        (Some(Value::Array(old)), None) => Some((old, &empty)),
        (None, Some(Value::Array(new))) => Some((&empty, new)),
        _ => None,
    };
    if let Some((old, new)) = lists {
        let only = |list: &Vec<Value>, other: &Vec<Value>, sign: char| {
            let only = list.iter().filter(|item| !other.contains(item));
            only.map(|item| format!("{sign}{}", shown(item))).collect::<Vec<_>>()
        };
        let items = [only(new, old, '+'), only(old, new, '-')].concat();
        if !items.is_empty() {
            return format!("{field} {}", items.join(" "));
        }
    }
    match (from, to) {
        (None, Some(to)) => format!("{field} {}", shown(to)),
        (Some(from), None) => format!("{field} {} -> none", shown(from)),
        (from, to) => {
            let value = |value: &Option<Value>| value.as_ref().map_or("none".to_owned(), shown);
            format!("{field} {} -> {}", value(from), value(to))
        }
    }
}

/// As it would stand in a file.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key} = {}", shown(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// For programs.
pub(super) fn json(old: &Side, new: &Side, difference: &Difference) -> Value {
    let fields = |fields: &[FieldChange]| -> Vec<Value> {
        fields.iter().map(|c| json!({"field": c.field, "from": c.from, "to": c.to})).collect()
    };
    let items = |items: &[ItemChange]| -> Vec<Value> {
        items.iter().map(|i| json!({"name": i.name, "change": word(i.what), "fields": fields(&i.fields)})).collect()
    };
    let hosts = difference.hosts.iter().map(|(name, change)| {
        json!({"name": name, "change": word(change.what), "settings": fields(&change.settings),
               "schedules": items(&change.schedules)})
    });
    json!({
        "from": old.json(),
        "to": new.json(),
        "changes": !difference.is_empty(),
        "server": fields(&difference.server),
        "repositories": items(&difference.repositories),
        "hosts": hosts.collect::<Vec<_>>(),
        "added": difference.count(What::Added),
        "changed": difference.count(What::Changed),
        "removed": difference.count(What::Removed),
        "unchanged": difference.unchanged_hosts,
    })
}

fn word(what: What) -> &'static str {
    match what {
        What::Added => "added",
        What::Removed => "removed",
        What::Changed => "changed",
    }
}
