//! Edge. The servers that share one state directory: how each shows that it lives, tells the others which journals changed,
//! and lets them know which of its batches are on their way. A server that is alone does none of that but hold a lock.
//!
//! `servers/<id>/` is one server's: `lock` is held while it lives, `about.json` says who it is, `bell.<n>` grows by a journal's
//! name for each change, `in-flight` holds the times of its batches. A new server waits until the others have noticed it
//! (`noticed-by-<id>`), so that from its first answer on all of them look at the files before they answer.
//! Does not read journals: `servers_loop` does what the bells say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::bell::{Bell, Listener};
use crate::atomic_file;
use crate::file_error::{FileError, chain};
use crate::machine;

/// How long a new server waits for the others to notice it.
const NOTICE_PATIENCE: Duration = Duration::from_secs(5);

/// Who a server is, for the others and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub pid: u32,
    pub hostname: String,
    /// Names the running system, so that two servers know whether they read one clock.
    pub boot: String,
    /// The configuration directory that it reads, and the hash of what it found there last.
    #[serde(default)]
    pub directory: String,
    #[serde(default)]
    pub directory_hash: String,
}

/// Another server that lives.
#[derive(Debug, Clone)]
pub struct Other {
    pub dir: PathBuf,
    pub about: About,
    pub is_on_this_machine: bool,
}

/// This server's place among those of the state directory.
pub struct Servers {
    dir: PathBuf,
    id: String,
    about: Mutex<About>,
    in_company: AtomicBool,
    others: RwLock<Arc<Vec<Other>>>,
    pub bell: Bell,
    requests: mpsc::Sender<oneshot::Sender<()>>,
    /// Taken by the loop.
    pub wanted: Mutex<Option<mpsc::Receiver<oneshot::Sender<()>>>>,
    /// Held while this value lives.
    _lock: File,
}

impl Servers {
    /// Makes this server known and waits until those that live have noticed it. Blocks.
    pub fn enter(state: &Path) -> Result<Arc<Self>, FileError> {
        let servers_dir = state.join("servers");
        let id = uuid::Uuid::new_v4().to_string();
        let dir = servers_dir.join(&id);
        atomic_file::create_private_dir(&dir)?;
        let lock = atomic_file::open_lock(&dir.join("lock"))?;
        lock.lock().map_err(FileError::of("lock", &dir.join("lock")))?;
        let about = About {
            pid: std::process::id(),
            hostname: machine::hostname(),
            boot: machine::boot_id(),
            directory: String::new(),
            directory_hash: String::new(),
        };
        let (requests, wanted) = mpsc::channel(64);
        let servers = Arc::new(Self {
            bell: Bell::new(&dir),
            dir: servers_dir,
            id,
            about: Mutex::new(about.clone()),
            in_company: AtomicBool::new(false),
            others: RwLock::default(),
            requests,
            wanted: Mutex::new(Some(wanted)),
            _lock: lock,
        });
        // Only a directory with this file counts, and the lock is held by now.
        servers.write_about(&about).inspect_err(|_| {
            // On a full disk: whoever tries again leaves no row of these behind.
            let _ = atomic_file::remove_dir(&dir);
        })?;
        let begun = Instant::now();
        loop {
            let (living, _) = servers.look()?;
            // Nothing is on its way yet, so another newcomer is noticed by having been seen.
            servers.set_others(living);
            let others = servers.others();
            others.iter().try_for_each(|other| servers.notice(other))?;
            let own = servers.own_dir();
            let unaware: Vec<_> = others.iter().filter(|other| !own.join(noticed_by(&other.dir)).exists()).collect();
            if unaware.is_empty() {
                break;
            }
            if begun.elapsed() > NOTICE_PATIENCE {
                for other in unaware {
                    let About { pid, hostname, .. } = &other.about;
                    tracing::warn!(%pid, %hostname, "a server of this state directory does not react: its answers may be old until it does");
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(servers)
    }

    /// Whether other servers live.
    pub fn in_company(&self) -> bool {
        self.in_company.load(Ordering::Acquire)
    }

    pub fn others(&self) -> Arc<Vec<Other>> {
        Arc::clone(&self.others.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_others(&self, others: Vec<Other>) {
        let company = !others.is_empty();
        *self.others.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(others);
        self.in_company.store(company, Ordering::Release);
    }

    /// `state/servers`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn own_dir(&self) -> PathBuf {
        self.dir.join(&self.id)
    }

    /// The others that live, and the directories of those that died. Blocks shortly.
    pub fn look(&self) -> Result<(Vec<Other>, Vec<PathBuf>), FileError> {
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        let boot = machine::boot_id();
        for entry in std::fs::read_dir(&self.dir).map_err(FileError::of("list", &self.dir))? {
            let dir = entry.map_err(FileError::of("list", &self.dir))?.path();
            if dir.ends_with(&self.id) {
                continue;
            }
            let Ok(text) = std::fs::read(dir.join("about.json")) else { continue };
            let Ok(about) = serde_json::from_slice::<About>(&text) else { continue };
            match is_locked(&dir) {
                true => living.push(Other { is_on_this_machine: about.boot == boot, dir, about }),
                false => dead.push(dir),
            }
        }
        Ok((living, dead))
    }

    /// Lets a new server know that this one takes it into account from now on.
    pub fn notice(&self, other: &Other) -> Result<(), FileError> {
        let mark = other.dir.join(format!("noticed-by-{}", self.id));
        if mark.exists() { Ok(()) } else { atomic_file::note(&mark, b"") }
    }

    /// Shows what this server found in its configuration directory.
    pub fn show_directory(&self, directory: &Path, hash: &str) {
        let about = {
            let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
            about.directory = directory.display().to_string();
            about.directory_hash = hash.to_owned();
            about.clone()
        };
        if let Err(error) = self.write_about(&about) {
            tracing::warn!("other servers do not learn which configuration this one reads: {}", chain(&error));
        }
    }

    fn write_about(&self, about: &About) -> Result<(), FileError> {
        // A struct of text and a number always has a JSON form.
        let bytes = serde_json::to_vec(about).unwrap_or_default();
        atomic_file::replace_cache(&self.own_dir().join("about.json"), &bytes)
    }

    /// Returns when everything that other servers made durable before this call is in memory here.
    pub async fn sync(&self) {
        if !self.in_company() {
            return;
        }
        let (done, finished) = oneshot::channel();
        if self.requests.send(done).await.is_ok() {
            let _ = finished.await;
        }
    }

    /// A reader of this server's bells for each of the others.
    pub fn listener(other: &Other) -> Listener {
        Listener::new(&other.dir)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Those who are left find the directory gone, or the lock free.
        let _ = atomic_file::remove_dir(&self.own_dir());
    }
}

/// What the server with this directory leaves in ours when it has noticed us.
fn noticed_by(dir: &Path) -> String {
    format!("noticed-by-{}", dir.file_name().unwrap_or_default().to_string_lossy())
}

/// Whether somebody holds the directory's lock.
fn is_locked(dir: &Path) -> bool {
    match File::options().append(true).open(dir.join("lock")) {
        Ok(lock) => lock.try_lock().is_err(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_alone_until_another_lives_and_again_when_it_has_gone() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let one = Servers::enter(state.path()).expect("enter");
        assert!(!one.in_company());
        let noticing = {
            let one = Arc::clone(&one);
            std::thread::spawn(move || {
                let until = Instant::now() + Duration::from_secs(10);
                while Instant::now() < until {
                    let (living, _) = one.look().expect("look");
                    one.set_others(living);
                    one.others().iter().for_each(|other| one.notice(other).expect("notice"));
                    if one.in_company() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        };
        let two = Servers::enter(state.path()).expect("enter");
        noticing.join().expect("noticed");
        assert!(one.in_company() && two.in_company());
        let (living, dead) = one.look().expect("look");
        assert_eq!((living.len(), dead.len()), (1, 0));
        assert!(living[0].is_on_this_machine);
        drop(two);
        let (living, dead) = one.look().expect("look");
        assert_eq!((living.len(), dead.len()), (0, 0));
    }

    #[test]
    fn a_server_that_was_killed_is_found_dead() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let one = Servers::enter(state.path()).expect("enter");
        let dir = state.path().join("servers/gone");
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("lock"), "").expect("a lock that nobody holds");
        let about = About {
            pid: 1,
            hostname: "x".into(),
            boot: "y".into(),
            directory: String::new(),
            directory_hash: String::new(),
        };
        std::fs::write(dir.join("about.json"), serde_json::to_vec(&about).expect("JSON")).expect("write");
        assert_eq!(one.look().expect("look").1, [dir]);
    }
}
