//! Edge. `completions` and `man` of both programs: what shells and man(1) know of the commands, from the same description as `--help`.
//! Does not know the commands.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::atomic_file;
use crate::file_error::chain;

#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell; its own manual says where such files go, such as /etc/bash_completion.d/
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArguments {
    /// Where the pages go, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Prints a shell's completions.
pub fn completions(arguments: &CompletionsArguments, mut command: Command, out: &mut impl Write) -> io::Result<u8> {
    let name = command.get_name().to_owned();
    // Made whole first: the generator does not survive that nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    out.write_all(&script)?;
    Ok(0)
}

/// Writes a page for the program and for each of its commands. Answers how many.
pub fn man(arguments: &ManArguments, command: Command) -> Result<usize, String> {
    if !arguments.directory.is_dir() {
        return Err(format!("{} is no directory: make it first", arguments.directory.display()));
    }
    let pages = pages(command)?;
    pages.iter().try_for_each(|(file, page)| write(&arguments.directory.join(file), page))?;
    Ok(pages.len())
}

/// "restic-manager-jobs.1" of `restic-manager jobs`, and so on: names and pages.
fn pages(command: Command) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut command = command.disable_help_subcommand(true);
    // Gives each command below its whole name.
    command.build();
    let (mut pages, mut left) = (Vec::new(), vec![command]);
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|below| !below.is_hide_set()).cloned());
        let page = Man::new(command);
        let mut bytes = Vec::new();
        page.render(&mut bytes).map_err(|error| format!("no page {}: {error}", page.get_filename()))?;
        pages.push((page.get_filename(), bytes));
    }
    Ok(pages)
}

/// Manuals are everybody's to read, unlike what `atomic_file` writes.
fn write(path: &Path, page: &[u8]) -> Result<(), String> {
    atomic_file::replace_public(path, page).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(name = "tool", version)]
    enum Sample {
        /// Run it
        Run {
            /// With this
            #[arg(long)]
            with: Option<String>,
        },
        #[command(subcommand)]
        Token(Below),
    }

    #[derive(clap::Subcommand)]
    enum Below {
        /// A new one
        New,
    }

    fn sample() -> Command {
        <Sample as clap::CommandFactory>::command()
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            let mut out = Vec::new();
            let code = completions(&CompletionsArguments { shell: *shell }, sample(), &mut out).expect("printed");
            let text = String::from_utf8(out).expect("text");
            assert!(code == 0 && text.contains("tool") && text.contains("with"), "{shell}: {text}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let mut pages = pages(sample()).expect("pages");
        pages.sort();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool-run.1", "tool-token-new.1", "tool-token.1", "tool.1"]);
        assert!(String::from_utf8_lossy(&pages[0].1).contains("With this"));
    }
}
