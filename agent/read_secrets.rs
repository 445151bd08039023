//! Edge. Reads secrets of the agent's own at each start of restic, for just the repositories that they are bound to. They are never told
//! to the server. Does not say which may be used with what (`crate::own_secrets`), nor start restic.

use std::io::Read;
use std::path::Path;

use restic_manager::file_error::{FileError, chain};
use restic_manager::protocol::command::{SECRET_LIMIT, Secret};
use restic_manager::protocol::repository_access::RepositoryAccess;
use restic_manager::secret_program;

use crate::core::Agent;
use crate::own_secrets::{SecretSource, permits};

/// The access with the agent's own secrets in it, for one start of restic. They are masked in what is shown from now on.
pub(crate) async fn resolve(agent: &Agent, mut access: RepositoryAccess) -> Result<RepositoryAccess, String> {
    permits(&agent.settings.secrets, &access)?;
    for (name, place) in
        [(&access.password_secret, &mut access.password), (&access.credential_secret, &mut access.credential)]
    {
        if let Some(secret) = agent.settings.secrets.get(name.as_str()) {
            *place = read(&secret.source).await.map_err(|why| format!("[secrets.{name}] of agent.toml: {why}"))?;
        }
    }
    agent.uses(&access);
    Ok(access)
}

async fn read(source: &SecretSource) -> Result<Secret, String> {
    match source {
        SecretSource::File(path) => read_file(path),
        SecretSource::Environment(name) => {
            let value = std::env::var(name).map_err(|error| format!("the environment variable {name}: {error}"))?;
            Secret::of_text(&value).map_err(|what| format!("the environment variable {name} {what}"))
        }
        SecretSource::Command(argv) => {
            let program = argv.first().map_or("", String::as_str);
            secret_program::ask(argv).await.map_err(|error| format!("the command {program:?} {error}"))
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let unread = |error: std::io::Error| chain(&FileError::of("read", path)(error));
    if !path.metadata().map_err(unread)?.is_file() {
        // Said before it is opened: opening a pipe would wait.
        return Err(format!("{} is not a file", path.display()));
    }
    let file = std::fs::File::open(path).map_err(unread)?;
    check_rights(path, &file.metadata().map_err(unread)?)?;
    let mut text = String::new();
    let size = file.take(SECRET_LIMIT as u64 + 1).read_to_string(&mut text).map_err(unread)?;
    if size > SECRET_LIMIT {
        return Err(format!("{} is larger than 64 KiB", path.display()));
    }
    Secret::of_text(&text).map_err(|what| format!("{} {what}", path.display()))
}

/// A secret that everybody on the host can read is none. Its group may read it: some tools share secrets so.
#[cfg(unix)]
fn check_rights(path: &Path, metadata: &std::fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    if metadata.mode() & 0o027 == 0 {
        return Ok(());
    }
    Err(format!("{0} is open to others than its owner: chmod 600 {0}", path.display()))
}

/// On Windows the file's ACL is what counts.
#[cfg(not(unix))]
fn check_rights(_: &Path, _: &std::fs::Metadata) -> Result<(), String> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_comes_from_a_file_a_variable_or_a_command() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        restic_manager::atomic_file::replace(&path, b"s\n").expect("written");
        let mode = |mode: u32| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let file = SecretSource::File(path.clone());
        mode(0o640);
        assert_eq!(read(&file).await, Ok(Secret::new("s".to_owned())));
        for open in [0o644, 0o660] {
            mode(open);
            assert!(read(&file).await.expect_err("open").contains("chmod 600"));
        }
        let path_value = std::env::var("PATH").expect("PATH is set");
        assert_eq!(read(&SecretSource::Environment("PATH".to_owned())).await, Ok(Secret::new(path_value)));
        assert!(
            read(&SecretSource::Environment("RM_NOTHING".to_owned())).await.expect_err("no").contains("RM_NOTHING")
        );
        let command = ["/bin/sh", "-c", "echo s; echo s >&2; exit \"$0\""].map(str::to_owned).to_vec();
        let with = |code: &str| SecretSource::Command([command.clone(), vec![code.to_owned()]].concat());
        assert_eq!(read(&with("0")).await, Ok(Secret::new("s".to_owned())));
        assert!(read(&with("1")).await.expect_err("failed").contains("exit code 1, with an error message"));
    }
}
