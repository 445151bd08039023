//! Pure. What a schedule's `pre_hook` and `post_hook` refer to, and whether the host's policy lets it run. Does not look for the
//! program or start it.

use restic_manager::protocol::job_options::BackupOptions;

use crate::policy::Hooks;

/// What a hook's text stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookReference<'a> {
    /// A program in the agent's own hooks directory, by its file name.
    Named(&'a str),
    /// Text for the shell of config.update's `hook_shell`.
    Inline(&'a str),
}

/// Whatever could be a file's name is one: text that a shell should run has a space or another sign in it.
pub(crate) fn hook_reference(text: &str) -> HookReference<'_> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && text.len() <= 64 && text.bytes().all(fits) {
        HookReference::Named(text)
    } else {
        HookReference::Inline(text)
    }
}

/// Whether the job's hooks may run. The refusal names the line of agent.toml that forbids it.
pub(crate) fn permits_hooks(hooks: Hooks, options: &BackupOptions) -> Result<(), String> {
    for (key, text) in [("pre_hook", &options.pre_hook), ("post_hook", &options.post_hook)] {
        let Some(text) = text.as_deref() else { continue };
        match (hooks, hook_reference(text)) {
            (Hooks::Off, _) => {
                return Err(format!(
                    "{key}: hooks are not permitted on this host: set hooks = \"named\" in [policy] of agent.toml"
                ));
            }
            (Hooks::Named, HookReference::Inline(_)) => {
                return Err(format!(
                    "{key} is text for a shell, which is not permitted on this host: write the name of a program in the agent's hooks.d, or set hooks = \"inline\" in [policy] of agent.toml"
                ));
            }
            (Hooks::Named | Hooks::Inline, HookReference::Named(name)) if is_batch_file(name) => {
                return Err(format!(
                    "{key}: {name:?} is a batch file, whose arguments cmd.exe would read anew: write it as .ps1 or .exe"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// CVE-2024-24576: no quoting is safe for these.
pub(crate) fn is_batch_file(name: &str) -> bool {
    // Windows leaves dots off a name's end.
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    lower.ends_with(".bat") || lower.ends_with(".cmd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_a_program_and_everything_else_is_text_for_a_shell() {
        for name in ["pg-dump", "dump.sh", "A_1", "x.ps1"] {
            assert_eq!(hook_reference(name), HookReference::Named(name));
        }
        for text in ["pg_dump -Fc", "/bin/true", "../x", ".hidden", "-x", "a;b", "", "a\nb", "..", &"a".repeat(65)] {
            assert_eq!(hook_reference(text), HookReference::Inline(text));
        }
    }

    #[test]
    fn a_batch_file_is_known_by_any_spelling_of_its_end() {
        for name in ["x.bat", "x.cmd", "X.CMD", "x.Bat", "x.cmd.", "x.bat..", "x.ps1.bat"] {
            assert!(is_batch_file(name), "{name}");
        }
        for name in ["x.ps1", "x.exe", "bat", "cmd", "x.bat.ps1", "xbat"] {
            assert!(!is_batch_file(name), "{name}");
        }
    }

    #[test]
    fn the_policy_decides_which_hooks_run() {
        let options = |hook: &str| BackupOptions { post_hook: Some(hook.to_owned()), ..BackupOptions::default() };
        let (named, inline) = (options("pg-dump"), options("rm -r /tmp/x"));
        for (hooks, options, permitted) in [
            (Hooks::Off, &BackupOptions::default(), true),
            (Hooks::Off, &named, false),
            (Hooks::Named, &named, true),
            (Hooks::Named, &inline, false),
            (Hooks::Inline, &named, true),
            (Hooks::Inline, &inline, true),
            (Hooks::Inline, &options("x.BAT"), false),
        ] {
            let answer = permits_hooks(hooks, options);
            assert_eq!(answer.is_ok(), permitted, "{hooks:?} {options:?}: {answer:?}");
            assert!(answer.err().is_none_or(|error| error.contains("post_hook")));
        }
    }
}
