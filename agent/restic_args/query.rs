//! Pure. restic's arguments for what only reads. Never with a lock: a question waits for nobody, and is in nobody's way; what a
//! prune takes away meanwhile is an error in its answer and nothing more.

use restic_manager::protocol::job_options::{DiffOptions, FindOptions, LsOptions, StatsOptions};

use super::{ArgumentContext, Arguments, Refusal, values};

fn reading(subcommand: &str, context: &ArgumentContext<'_>) -> Arguments {
    let mut arguments = Arguments::of(subcommand, context);
    arguments.switch("no-lock");
    arguments
}

/// The snapshots with these ids, whoever's they are, as JSON; ids that there are not are left out.
pub(crate) fn named_snapshots_arguments(ids: &[String], context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let mut arguments = reading("snapshots", context);
    arguments.list.push("--".to_owned());
    for id in ids {
        arguments.list.push(values::snapshot(id)?.to_owned());
    }
    Ok(arguments.list)
}

pub(super) fn ls(options: &LsOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let snapshot = values::snapshot(&options.snapshot)?;
    let mut arguments = reading("ls", context);
    if options.recursive {
        arguments.switch("recursive");
    }
    if snapshot == "latest" {
        arguments.flag("host", context.host);
    }
    let path = values::path_in_snapshot(options.path.as_deref().unwrap_or("/"))?;
    arguments.list.extend(["--".to_owned(), snapshot.to_owned(), path.to_owned()]);
    Ok(arguments.list)
}

/// In these snapshots; none: in all of the host's.
pub(crate) fn find_arguments(
    options: &FindOptions,
    snapshots: &[String],
    context: &ArgumentContext<'_>,
) -> Result<Vec<String>, Refusal> {
    let mut arguments = reading("find", context);
    if options.ignore_case {
        arguments.switch("ignore-case");
    }
    if snapshots.is_empty() {
        arguments.flag("host", context.host);
    }
    for snapshot in snapshots {
        arguments.flag("snapshot", values::snapshot(snapshot)?);
    }
    arguments.list.extend(["--".to_owned(), values::text("the pattern", &options.pattern)?.to_owned()]);
    Ok(arguments.list)
}

pub(super) fn diff(options: &DiffOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let mut arguments = reading("diff", context);
    let (from, to) = (values::snapshot(&options.from)?, values::snapshot(&options.to)?);
    arguments.list.extend(["--".to_owned(), from.to_owned(), to.to_owned()]);
    Ok(arguments.list)
}

pub(super) fn stats(options: &StatsOptions, context: &ArgumentContext<'_>) -> Result<Vec<String>, Refusal> {
    let mut arguments = reading("stats", context);
    arguments.flag("mode", options.mode.as_str());
    match &options.snapshot {
        Some(snapshot) => arguments.list.extend(["--".to_owned(), values::snapshot(snapshot)?.to_owned()]),
        None => arguments.flag("host", context.host),
    }
    Ok(arguments.list)
}

/// What the whole repository holds, of every host.
pub(crate) fn repository_stats_arguments(mode: &str, context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = reading("stats", context);
    arguments.flag("mode", mode);
    arguments.list
}

/// The locks that there are, one id a line.
pub(crate) fn list_locks_arguments(context: &ArgumentContext<'_>) -> Vec<String> {
    let mut arguments = reading("list", context);
    arguments.list.retain(|argument| argument != "--json");
    arguments.list.extend(["--".to_owned(), "locks".to_owned()]);
    arguments.list
}
