//! Edge. `restic-manager check`: validates a configuration directory without a server, for people, scripts and GitHub.
//! Does not read the files of secrets: those are on the server only, and a reviewer's machine has none.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cron_time::CronExpression;
use crate::printable::printable;
use crate::problem::{Problem, Severity};
use crate::server::fleet::read_tree::load_directory;
use crate::server::fleet::{Fleet, Host, HostSchedule};

/// Validates a fleet's configuration offline.
#[derive(Debug, Clone, Args)]
pub struct CheckArguments {
    /// The configuration directory
    #[arg(value_name = "DIR", default_value = "config")]
    pub directory: PathBuf,
    /// Also print each schedule's next N fire times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub next: Option<u16>,
    /// How problems are printed
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
}

/// How problems are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// As a compiler would
    Text,
    /// One JSON object
    Json,
    /// Annotations of a pull request's lines
    Github,
}

/// Checks and prints. Answers the exit code: 1 where the fleet has an error, else 0; warnings alone are no failure.
/// `now` is where the next fire times begin. An error is one of printing.
pub fn run(arguments: &CheckArguments, now: DateTime<Utc>, color: bool, out: &mut impl Write) -> io::Result<u8> {
    let (fleet, problems) = load_directory(&arguments.directory);
    let fires = arguments.next.map_or_else(Vec::new, |count| {
        fleet.hosts.values().flat_map(|host| next_fires(host, now, usize::from(count))).collect()
    });
    match arguments.format {
        CheckFormat::Text => {
            for problem in &problems {
                writeln!(out, "{}", compiler_line(problem, color))?;
            }
            write_table(&fires, out)?;
            writeln!(out, "{}", summary(&fleet, &problems))?;
        }
        CheckFormat::Github => {
            for problem in &problems {
                writeln!(out, "{}", github_line(problem, &arguments.directory))?;
            }
            write_table(&fires, out)?;
            writeln!(out, "{}", summary(&fleet, &problems))?;
        }
        CheckFormat::Json => writeln!(out, "{}", json_object(&fleet, &problems, &fires))?,
    }
    Ok(u8::from(problems.iter().any(|problem| problem.severity == Severity::Error)))
}

/// A problem as a compiler would tell it.
pub(super) fn compiler_line(problem: &Problem, color: bool) -> String {
    let line = printable(&problem.to_string());
    if !color {
        return line;
    }
    let (word, code) = match problem.severity {
        Severity::Error => (": error: ", "1;31"),
        Severity::Warning => (": warning: ", "1;33"),
    };
    line.replacen(word, &format!(": \u{1b}[{code}m{}\u{1b}[0m ", word.trim_start_matches(": ").trim_end()), 1)
}

/// A workflow command. Paths are relative to where the workflow runs, as the annotation needs them.
fn github_line(problem: &Problem, directory: &Path) -> String {
    let value = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| value(text).replace(':', "%3A").replace(',', "%2C");
    let severity = severity_word(problem.severity);
    let file = directory.join(&problem.file);
    let file = property(&printable(file.to_string_lossy().trim_start_matches("./")));
    let place = if problem.line > 0 { format!(",line={},col={}", problem.line, problem.column) } else { String::new() };
    format!("::{severity} file={file}{place}::{}", value(&printable(&problem.message)))
}

fn json_object(fleet: &Fleet, problems: &[Problem], fires: &[Fire]) -> serde_json::Value {
    let listed: Vec<_> = problems
        .iter()
        .map(|p| {
            let mut object = json!({"file": p.file, "severity": severity_word(p.severity), "message": p.message});
            // Absent where the whole file is meant.
            if p.line > 0 {
                (object["line"], object["column"]) = (p.line.into(), p.column.into());
            }
            object
        })
        .collect();
    let (errors, warnings) = counts(problems);
    let mut object = json!({
        "problems": listed, "errors": errors, "warnings": warnings,
        "hosts": fleet.hosts.len(), "groups": fleet.groups.len(), "repositories": fleet.repositories.len(),
    });
    if !fires.is_empty() {
        let fires = fires.iter().map(|fire| {
            json!({"host": fire.host, "schedule": fire.schedule, "kind": fire.kind, "at": fire.at.to_rfc3339(),
                   "timezone": fire.zone, "splay": fire.splay})
        });
        object["next"] = fires.collect();
    }
    object
}

pub(super) fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn counts(problems: &[Problem]) -> (usize, usize) {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    (errors, problems.len() - errors)
}

fn summary(fleet: &Fleet, problems: &[Problem]) -> String {
    let many = |count: usize, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let (errors, warnings) = counts(problems);
    let found = match (errors, warnings) {
        (0, 0) => "no problems".to_owned(),
        (0, warnings) => many(warnings, "warning", "warnings"),
        (errors, 0) => many(errors, "error", "errors"),
        (errors, warnings) => {
            format!("{}, {}", many(errors, "error", "errors"), many(warnings, "warning", "warnings"))
        }
    };
    format!(
        "checked {}, {}, {}: {found}",
        many(fleet.hosts.len(), "host", "hosts"),
        many(fleet.groups.len(), "group", "groups"),
        many(fleet.repositories.len(), "repository", "repositories")
    )
}

/// One due time of one schedule.
struct Fire {
    host: String,
    schedule: String,
    kind: &'static str,
    at: DateTime<Tz>,
    /// The zone's name; that of a schedule without a zone is the machine's own, which is not known here.
    zone: String,
    /// Empty: none.
    splay: String,
}

/// The next fires of each of the host's enabled schedules, the earliest first: a busy schedule hides no other.
fn next_fires(host: &Host, now: DateTime<Utc>, count: usize) -> Vec<Fire> {
    let mut fires: Vec<Fire> = Vec::new();
    for HostSchedule { schedule, .. } in host.schedules.iter().filter(|held| held.schedule.enabled) {
        let Ok(expression) = CronExpression::parse(&schedule.cron_expr) else { continue };
        let zone = schedule.timezone.as_ref().and_then(|name| name.parse::<Tz>().ok());
        let next = |at: &DateTime<Utc>| expression.next_after(zone.unwrap_or(Tz::UTC), *at);
        fires.extend(std::iter::successors(next(&now), next).take(count).map(|at| Fire {
            host: host.name.to_string(),
            schedule: schedule.id.to_string(),
            kind: schedule.kind.as_str(),
            at: at.with_timezone(&zone.unwrap_or(Tz::UTC)),
            zone: zone.map_or("the host's own, shown as if UTC".to_owned(), |zone| zone.name().to_owned()),
            splay: if schedule.splay.is_zero() { String::new() } else { format!("+ up to {}", schedule.splay) },
        }));
    }
    fires.sort_by(|a, b| (a.at, &a.schedule).cmp(&(b.at, &b.schedule)));
    fires
}

fn write_table(fires: &[Fire], out: &mut impl Write) -> io::Result<()> {
    if fires.is_empty() {
        return Ok(());
    }
    let rows = fires.iter().map(|fire| {
        let at = fire.at.format("%Y-%m-%d %H:%M").to_string();
        [fire.host.clone(), fire.schedule.clone(), fire.kind.to_owned(), at, fire.zone.clone(), fire.splay.clone()]
    });
    let header = ["host", "schedule", "kind", "next due", "time zone", "splay"].map(|title| title.to_uppercase());
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const REPOSITORY: &str = "url = \"/srv\"\npassword = { file = \"/run/secrets/p\" }\n";
    const HOST: &str = "repository = \"main\"\ntimezone = \"Europe/London\"\n[[schedule]]\nid = \"x\"\nkind = \"backup\"\n\
                        cron = \"15 2 * * *\"\nsplay = \"30m\"\npaths = [\"/etc\"]\n";

    fn check(host: &str, format: CheckFormat, next: Option<u16>) -> (u8, String) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in [("repositories/main.toml", REPOSITORY), ("hosts/web-1.toml", host)] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let arguments = CheckArguments { directory: directory.path().to_owned(), next, format };
        let now = "2026-06-01T12:00:00Z".parse().expect("an instant");
        let mut out = Vec::new();
        let code = run(&arguments, now, false, &mut out).expect("printed");
        let text = String::from_utf8(out).expect("text").replace(&*directory.path().to_string_lossy(), "config");
        (code, text)
    }

    #[test]
    fn a_good_fleet_is_one_line_and_success() {
        let (code, text) = check(HOST, CheckFormat::Text, None);
        assert_eq!((code, text.as_str()), (0, "checked 1 host, 0 groups, 1 repository: no problems\n"));
    }

    #[test]
    fn next_fires_are_a_table_in_the_schedules_zone() {
        let (code, text) = check(HOST, CheckFormat::Text, Some(2));
        let expected = "HOST   SCHEDULE  KIND    NEXT DUE          TIME ZONE      SPLAY\n\
                        web-1  x         backup  2026-06-02 02:15  Europe/London  + up to 30m\n\
                        web-1  x         backup  2026-06-03 02:15  Europe/London  + up to 30m\n\
                        checked 1 host, 0 groups, 1 repository: no problems\n";
        assert_eq!((code, text.as_str()), (0, expected));
    }

    #[test]
    fn problems_are_told_in_each_format_and_fail() {
        let host = HOST.replace("splay", "spaly");
        let (code, text) = check(&host, CheckFormat::Text, None);
        assert_eq!(code, 1);
        assert!(
            text.starts_with("hosts/web-1.toml:7:1: error: unknown key schedule.spaly; did you mean splay?\n"),
            "{text}"
        );
        assert!(text.ends_with("repository: 1 error\n"), "{text}");
        let (code, text) = check(&host, CheckFormat::Github, None);
        assert_eq!(code, 1);
        assert!(text.starts_with("::error file=config/hosts/web-1.toml,line=7,col=1::unknown key"), "{text}");
        let (code, text) = check(&host, CheckFormat::Json, None);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (code, &json["problems"][0]["line"], &json["errors"], &json["hosts"]),
            (1, &json!(7), &json!(1), &json!(1))
        );
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let (code, text) = check("repository = \"main\"\n", CheckFormat::Text, None);
        assert_eq!(code, 0);
        assert!(text.ends_with("repository: 1 warning\n"), "{text}");
    }

    #[test]
    fn nothing_out_of_a_file_drives_the_terminal_or_the_workflow() {
        let problem = Problem {
            file: "hosts/\u{1b}[31m,a:b\n.toml".to_owned(),
            line: 1,
            column: 2,
            severity: Severity::Error,
            message: "100%\r\n::warning::x \u{202e}".to_owned(),
        };
        let line = compiler_line(&problem, false);
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        let line = github_line(&problem, Path::new("config"));
        assert_eq!(
            line,
            "::error file=config/hosts/\\u{1b}[31m%2Ca%3Ab\\u{a}.toml,line=1,col=2::100%25\\u{d}\\u{a}::warning::x \\u{202e}"
        );
    }

    #[test]
    fn color_marks_the_severity_only() {
        let problem = crate::toml_reader::Place { line: 1, column: 2 }.error("a.toml", "b");
        assert_eq!(compiler_line(&problem, true), "a.toml:1:2: \u{1b}[1;31merror:\u{1b}[0m b");
    }
}
