//! Edge. What TLS connections are accepted with: the certificate, key and client CA as their files are now. Looks at the files,
//! loads what changed, and goes on with the last good ones, with a problem to show, when that cannot be used. Connections that
//! are there stay as they are. Does not accept any, and turns TLS neither on nor off: a restart does.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_rustls::TlsAcceptor;

use super::access::sha256;
use super::app::{App, blocking, stopped};
use super::fleet::settings::TlsSettings;
use crate::clock;
use crate::file_error::{FileError, chain};
use crate::file_stamp::{FileStamp, before_reading, is_still};
use crate::problem::{Problem, Severity};
use crate::tls::{PemFile, TicketKey, TlsError, dates_problem, new_ticket_key, server_config_of};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Looks in a row that must fail before it is told: the files of a new certificate come one after the other.
const FAILURES_TOLD: u32 = 2;

/// What the next handshake is done with.
pub struct CurrentTls {
    pub acceptor: TlsAcceptor,
    /// Agents are asked for a certificate by this authority: a number that is another one when the authority is.
    pub client_ca: Option<u64>,
}

/// The files that are to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Paths {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// See the module. A default one is without TLS.
#[derive(Default)]
pub struct ServedTls {
    wanted: RwLock<Option<Paths>>,
    current: RwLock<Option<Arc<CurrentTls>>>,
    problem: RwLock<Option<Problem>>,
    /// Held while the files are looked at. `None`: TLS is off.
    loaded: Mutex<Option<Loaded>>,
}

/// What is in use, and what was seen of the files last.
struct Loaded {
    content: [u8; 32],
    /// PEM, for its dates.
    certificate: (PathBuf, Vec<u8>),
    client_ca: Option<[u8; 32]>,
    ca_number: u64,
    ticket_key: TicketKey,
    looked_at: Option<(Paths, Vec<(PathBuf, FileStamp)>)>,
    failures: u32,
}

impl Loaded {
    fn dates_problem(&self, now: DateTime<Utc>) -> Option<String> {
        let (path, pem) = &self.certificate;
        dates_problem(pem, now).map(|problem| format!("the certificate in {} {problem}", path.display()))
    }
}

/// The files' texts, which are gone when they have been used.
struct Texts {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
    /// `None`: one of them has changed just now and may change again.
    stamps: Option<Vec<(PathBuf, FileStamp)>>,
}

impl Texts {
    fn read(paths: &Paths) -> Result<Self, TlsError> {
        let mut stamps = Vec::new();
        let mut is_settled = true;
        let mut read = |path: &Path| {
            let (bytes, stamp) = read_with_stamp(path).map_err(TlsError::File)?;
            is_settled &= stamp.is_some();
            stamps.extend(stamp.map(|stamp| (path.to_owned(), stamp)));
            Ok::<_, TlsError>(PemFile { path: path.to_owned(), bytes })
        };
        let (certificate, key) = (read(&paths.certificate)?, read(&paths.key)?);
        let client_ca = paths.client_ca.as_deref().map(&mut read).transpose()?;
        Ok(Self { certificate, key, client_ca, stamps: is_settled.then_some(stamps) })
    }

    fn content(&self) -> [u8; 32] {
        let ca = self.client_ca.as_ref().map_or(&[][..], |ca| &ca.bytes);
        let parts = [&self.certificate.bytes[..], &self.key.bytes, ca];
        sha256(&parts.map(sha256).concat())
    }

    fn certificate_text(&self) -> (PathBuf, Vec<u8>) {
        (self.certificate.path.clone(), self.certificate.bytes.clone())
    }

    fn authority(&self) -> Option<[u8; 32]> {
        self.client_ca.as_ref().map(|ca| sha256(&ca.bytes))
    }

    fn load(&self, ticket_key: TicketKey) -> Result<TlsAcceptor, TlsError> {
        let config = server_config_of(&self.certificate, &self.key, self.client_ca.as_ref(), ticket_key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn read_with_stamp(path: &Path) -> Result<(Vec<u8>, Option<FileStamp>), FileError> {
    let read = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let stamp = before_reading(&file.metadata()?)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((bytes, stamp))
    };
    read().map_err(FileError::of("read", path))
}

impl ServedTls {
    /// What the next handshake is done with; `None`: without TLS.
    pub fn current(&self) -> Option<Arc<CurrentTls>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why what is in the files is not in use, if it is not.
    pub fn problem(&self) -> Option<Problem> {
        self.problem.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files that are to be used from now on, relative to the configuration's directory. `look` does it.
    pub fn want(&self, settings: Option<&TlsSettings>, directory: &Path) {
        let paths = settings.map(|settings| Paths {
            certificate: directory.join(&settings.cert),
            key: directory.join(&settings.key),
            client_ca: settings.client_ca.as_ref().map(|path| directory.join(path)),
        });
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    fn wanted(&self) -> Option<Paths> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the files for the first time; returns whether there is TLS. Blocks.
    pub fn start(&self) -> Result<bool, TlsError> {
        let Some(paths) = self.wanted() else { return Ok(false) };
        let texts = Texts::read(&paths)?;
        let ticket_key = new_ticket_key()?;
        let acceptor = texts.load(Arc::clone(&ticket_key))?;
        let client_ca = texts.authority();
        self.show(acceptor, client_ca.map(|_| 0));
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Loaded {
            content: texts.content(),
            certificate: texts.certificate_text(),
            client_ca,
            ca_number: 0,
            ticket_key,
            looked_at: texts.stamps.map(|stamps| (paths, stamps)),
            failures: 0,
        });
        Ok(true)
    }

    /// Looks at the files, and loads them if they are others. Blocks.
    pub fn look(&self) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = match (&mut *loaded, self.wanted()) {
            (None, None) => None,
            (Some(loaded), Some(paths)) => match self.load_changed(loaded, paths) {
                Ok(()) => loaded.dates_problem(clock::now()),
                Err(_) if loaded.failures < FAILURES_TOLD => return,
                Err(error) => Some(format!(
                    "{}: TLS goes on with what was loaded before: put a certificate and its key there, which are taken within seconds",
                    chain(&error)
                )),
            },
            (None, Some(_)) => Some("[tls] is new: restart the server for it to listen with TLS".to_owned()),
            (Some(_), None) => Some("[tls] is gone: the server goes on with TLS until it is restarted".to_owned()),
        };
        let problem = problem.map(|message| Problem {
            file: "server.toml".to_owned(),
            line: 0,
            column: 0,
            severity: Severity::Warning,
            message,
        });
        let mut known = self.problem.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| Some(*problem) != known.as_ref()) {
            tracing::warn!("{problem}");
        }
        *known = problem;
    }

    fn load_changed(&self, loaded: &mut Loaded, paths: Paths) -> Result<(), TlsError> {
        let is_same = |(known, stamps): &(Paths, Vec<(PathBuf, FileStamp)>)| {
            *known == paths && stamps.iter().all(|(path, stamp)| is_still(path, stamp))
        };
        if loaded.failures == 0 && loaded.looked_at.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let taken = Texts::read(&paths).and_then(|texts| self.take(loaded, &texts).map(|()| texts.stamps));
        match taken {
            Ok(stamps) => {
                loaded.failures = 0;
                loaded.looked_at = stamps.map(|stamps| (paths, stamps));
                Ok(())
            }
            Err(error) => {
                loaded.failures = loaded.failures.saturating_add(1);
                Err(error)
            }
        }
    }

    /// Uses these from now on, unless they are what is used.
    fn take(&self, loaded: &mut Loaded, texts: &Texts) -> Result<(), TlsError> {
        let content = texts.content();
        if loaded.content == content {
            return Ok(());
        }
        let client_ca = texts.authority();
        // A ticket vouches for the certificate that its client has shown: another authority must be shown it anew.
        let is_same_authority = client_ca == loaded.client_ca;
        let ticket_key = if is_same_authority { Arc::clone(&loaded.ticket_key) } else { new_ticket_key()? };
        let acceptor = texts.load(Arc::clone(&ticket_key))?;
        if !is_same_authority {
            loaded.ca_number += 1;
        }
        (loaded.content, loaded.client_ca, loaded.ticket_key) = (content, client_ca, ticket_key);
        loaded.certificate = texts.certificate_text();
        self.show(acceptor, client_ca.map(|_| loaded.ca_number));
        tracing::info!(certificate = %texts.certificate.path.display(), "TLS has new files, for new connections");
        Ok(())
    }

    fn show(&self, acceptor: TlsAcceptor, client_ca: Option<u64>) {
        let current = Some(Arc::new(CurrentTls { acceptor, client_ca }));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// Looks at the files every few seconds, until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        look(&app).await;
    }
}

/// Looks at them now.
pub async fn look(app: &Arc<App>) {
    let app = Arc::clone(app);
    blocking(move || app.tls.look()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
        tls: ServedTls,
    }

    impl Files {
        /// A certificate and its key in their files.
        fn put(&self, certificate: bool, key: bool) {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
            if certificate {
                self.write("cert.pem", &made.cert.pem());
            }
            if key {
                self.write("key.pem", &made.signing_key.serialize_pem());
            }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).expect("write");
        }

        fn want(&self, client_ca: Option<&str>) {
            let settings = TlsSettings {
                cert: "cert.pem".to_owned(),
                key: "key.pem".to_owned(),
                client_ca: client_ca.map(str::to_owned),
            };
            self.tls.want(Some(&settings), self.dir.path());
        }

        fn started() -> Self {
            let files = Self { dir: tempfile::tempdir().expect("a directory"), tls: ServedTls::default() };
            files.put(true, true);
            files.want(None);
            assert!(files.tls.start().expect("good files"));
            files
        }

        fn current(&self) -> Arc<CurrentTls> {
            self.tls.current().expect("TLS")
        }

        fn ticket_key(&self) -> TicketKey {
            Arc::clone(&self.current().acceptor.config().ticketer)
        }
    }

    #[test]
    fn new_files_are_taken_and_the_same_ones_change_nothing() {
        let files = Files::started();
        let first = files.current();
        files.tls.look();
        assert!(Arc::ptr_eq(&first, &files.current()), "the same files");
        let key = files.ticket_key();
        files.put(true, true);
        files.tls.look();
        assert!(!Arc::ptr_eq(&first, &files.current()) && files.tls.problem().is_none());
        assert!(Arc::ptr_eq(&key, &files.ticket_key()), "sessions are resumed with the tickets of before");
    }

    #[test]
    fn what_cannot_be_used_keeps_what_could_and_is_told_when_it_stays() {
        let files = Files::started();
        let first = files.current();
        files.put(true, false);
        files.tls.look();
        assert_eq!(files.tls.problem(), None, "the key may be on its way");
        for (name, text, expected) in [
            ("key.pem", "", "key.pem is not PEM"),
            ("cert.pem", "garbage", "cert.pem is not PEM: it has no certificate"),
        ] {
            files.write(name, text);
            files.tls.look();
            files.tls.look();
            let problem = files.tls.problem().expect("a problem");
            assert!(problem.message.contains(expected) && problem.severity == Severity::Warning, "{problem}");
        }
        assert!(Arc::ptr_eq(&first, &files.current()));
        files.put(true, true);
        files.tls.look();
        assert!(!Arc::ptr_eq(&first, &files.current()) && files.tls.problem().is_none());
    }

    #[test]
    fn another_authority_has_another_number_and_tickets_of_its_own() {
        let files = Files::started();
        let mut numbers = vec![files.current().client_ca];
        let mut keys = vec![files.ticket_key()];
        for authority in [true, false, true] {
            if authority {
                let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("a certificate");
                files.write("ca.pem", &made.cert.pem());
            }
            files.want(authority.then_some("ca.pem"));
            files.tls.look();
            numbers.push(files.current().client_ca);
            keys.push(files.ticket_key());
        }
        assert_eq!(numbers, [None, Some(1), None, Some(3)]);
        assert!(keys.windows(2).all(|pair| !Arc::ptr_eq(&pair[0], &pair[1])));
    }

    #[test]
    fn tls_comes_and_goes_with_a_restart_only() {
        let files = Files::started();
        files.tls.want(None, files.dir.path());
        files.tls.look();
        assert!(files.tls.current().is_some() && files.tls.problem().is_some_and(|p| p.message.contains("is gone")));
        let off = ServedTls::default();
        assert!(!off.start().expect("nothing to load"));
        off.look();
        assert_eq!(off.problem(), None);
        let settings = TlsSettings { cert: "cert.pem".to_owned(), key: "key.pem".to_owned(), client_ca: None };
        off.want(Some(&settings), files.dir.path());
        off.look();
        assert!(off.current().is_none() && off.problem().is_some_and(|p| p.message.contains("restart")));
    }
}
