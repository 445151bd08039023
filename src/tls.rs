//! Edge. TLS for both sides: whom a client trusts, and what a server shows. Reads PEM files and says which file is wrong
//! and how. Does not open sockets or watch the files: who wants a renewed certificate calls again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::file_error::FileError;

#[cfg(feature = "server")]
mod dates;
#[cfg(feature = "server")]
pub use dates::dates_problem;

/// Why there is no TLS. `Display` names the file and what is wrong in it.
#[derive(Debug)]
pub enum TlsError {
    File(FileError),
    /// The file is not what it should be; `problem` goes after its name.
    Unusable {
        path: PathBuf,
        problem: String,
    },
    /// Both files are fine by themselves.
    KeyMismatch {
        certificate: PathBuf,
        key: PathBuf,
    },
    /// Pinning without a file to pin.
    NothingToPin,
    /// The system has no trusted certificates, and no file was given.
    NoSystemTrust {
        source: rustls::Error,
    },
    Other(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Unusable { path, problem } => write!(f, "{} {problem}", path.display()),
            Self::KeyMismatch { certificate, key } => write!(
                f,
                "the key in {} does not belong to the first certificate in {}",
                key.display(),
                certificate.display()
            ),
            Self::NothingToPin => f.write_str("only that CA is to be trusted, but no CA file is given"),
            Self::NoSystemTrust { .. } => f.write_str(
                "this system has no trusted CA certificates: install its ca-certificates package, or give a CA file",
            ),
            Self::Other(_) => f.write_str("cannot set up TLS"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => error.source(),
            Self::NoSystemTrust { source } | Self::Other(source) => Some(source),
            _ => None,
        }
    }
}

/// Whom a client trusts: the system's CAs and, if given, those in `ca_file`; or those in `ca_file` alone. A system
/// without any CA is no problem with a `ca_file`. Shows no certificate of its own.
pub fn client_config(ca_file: Option<&Path>, only_that_ca: bool) -> Result<ClientConfig, TlsError> {
    client_config_with(ca_file, only_that_ca, None)
}

/// The same with what the client shows a server that asks: its chain and its key.
pub fn client_config_with(
    ca_file: Option<&Path>,
    only_that_ca: bool,
    shown: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Other)?;
    if only_that_ca {
        let roots = roots(ca_file.ok_or(TlsError::NothingToPin)?)?;
        return show(builder.with_root_certificates(roots), shown);
    }
    let extra = match ca_file {
        // Through a root store, so that a bad certificate is reported with its file.
        Some(path) => roots(path).and_then(|_| certificates(path))?,
        None => Vec::new(),
    };
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider())
        .map_err(|source| TlsError::NoSystemTrust { source })?;
    show(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)), shown)
}

fn show(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    shown: Option<(&Path, &Path)>,
) -> Result<ClientConfig, TlsError> {
    let Some((certificate, key)) = shown else { return Ok(builder.with_no_client_auth()) };
    let config = builder.with_client_auth_cert(certificates(certificate)?, private_key_in(key, &read(key)?)?);
    config.map_err(|error| pair_error(certificate, key, &error))
}

/// A PEM file as it was read.
#[cfg(feature = "server")]
pub struct PemFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

#[cfg(feature = "server")]
impl PemFile {
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        Ok(Self { path: path.to_owned(), bytes: read(path)? })
    }
}

/// What makes session tickets, and reads those that it made.
#[cfg(feature = "server")]
pub type TicketKey = Arc<dyn rustls::server::ProducesTickets>;

/// A new key of tickets.
#[cfg(feature = "server")]
pub fn new_ticket_key() -> Result<TicketKey, TlsError> {
    rustls::crypto::ring::Ticketer::new().map_err(TlsError::Other)
}

/// What a server shows: the chain in `certificate`, its own certificate first, and its key. With `client_ca`, clients are asked
/// for a certificate; one that is not from there ends the handshake, and none at all does not: who needs one is the caller's to say.
#[cfg(feature = "server")]
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<rustls::ServerConfig, TlsError> {
    let (certificate, key) = (PemFile::read(certificate)?, PemFile::read(key)?);
    let client_ca = client_ca.map(PemFile::read).transpose()?;
    server_config_of(&certificate, &key, client_ca.as_ref(), new_ticket_key()?)
}

/// The same from what was read. Agents that come back need no full handshake while the ticket key is the one of before; then no
/// sessions are kept here.
#[cfg(feature = "server")]
pub fn server_config_of(
    certificate: &PemFile,
    key: &PemFile,
    client_ca: Option<&PemFile>,
    ticket_key: TicketKey,
) -> Result<rustls::ServerConfig, TlsError> {
    use rustls::server::WebPkiClientVerifier;

    let chain = certificates_in(&certificate.path, &certificate.bytes)?;
    let private_key = private_key_in(&key.path, &key.bytes)?;
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Other)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(PemFile { path, bytes }) => {
            let roots = roots_of(path, certificates_in(path, bytes)?)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let verifier = verifier.allow_unauthenticated().build().map_err(|error| unusable(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, private_key)
        .map_err(|error| pair_error(&certificate.path, &key.path, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = ticket_key;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

fn private_key_in(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound if has_pem(bytes, "ENCRYPTED PRIVATE KEY") => {
                "has an encrypted key: write it without a passphrase (openssl pkey), readable by its owner only".into()
            }
            pem::Error::NoItemsFound => describe_missing(bytes, "private key"),
            error => format!("is not proper PEM: {}", wording(&error)),
        };
        TlsError::Unusable { path: path.to_owned(), problem }
    })
}

/// Why a certificate and a key, each readable, cannot be used together.
fn pair_error(certificate: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        rustls::Error::InvalidCertificate(_) => unusable(certificate, error),
        // Everything else is about the key: its kind is not supported, or it is no key.
        _ => TlsError::Unusable { path: key.to_owned(), problem: format!("has a key that cannot be used: {error}") },
    }
}

/// Passed explicitly: a process-wide default could be set by a dependency.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    roots_of(path, certificates(path)?)
}

fn roots_of(path: &Path, certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(path, &read(path)?)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File(FileError::of("read", path)(error)))
}

/// The same of a file's bytes.
fn certificates_in(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    let problem = match parsed {
        Ok(certificates) if !certificates.is_empty() => return Ok(certificates),
        Ok(_) => describe_missing(bytes, "certificate"),
        Err(error) => format!("is not proper PEM: {}", wording(&error)),
    };
    Err(TlsError::Unusable { path: path.to_owned(), problem })
}

fn wording(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line: the file may be half written".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is broken".to_owned(),
        error => error.to_string(),
    }
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), problem: format!("has a certificate that cannot be used: {error}") }
}

/// What is wrong with a file in which nothing of the wanted kind was found.
fn describe_missing(bytes: &[u8], wanted: &str) -> String {
    if has_pem(bytes, "") {
        format!("has no {wanted} in it")
    } else if bytes.starts_with(&[0x30, 0x82]) {
        "is DER, not PEM: convert it (openssl x509 -inform der, or openssl pkey -inform der)".to_owned()
    } else {
        format!("is not PEM: it has no {wanted} between BEGIN and END lines")
    }
}

fn has_pem(bytes: &[u8], label: &str) -> bool {
    memchr::memmem::find(bytes, format!("-----BEGIN {label}").as_bytes()).is_some()
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { dir: tempfile::tempdir().expect("a directory") };
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
            files.write("cert.pem", made.cert.pem());
            files.write("cert.der", made.cert.der());
            files.write("key.pem", made.signing_key.serialize_pem());
            files.write("other-key.pem", rcgen::KeyPair::generate().expect("a key").serialize_pem());
            files.write("text", "hello\n");
            files.write("cut.pem", &made.cert.pem()[..100]);
            files.write("nonsense.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
            files.write(
                "encrypted.pem",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            );
            files
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
            std::fs::write(self.path(name), bytes).expect("write");
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The error without the directory's name.
        fn shown(&self, error: &TlsError) -> String {
            error.to_string().replace(&format!("{}/", self.dir.path().display()), "")
        }
    }

    #[test]
    fn a_matching_certificate_and_key_are_taken() {
        let files = Files::new();
        let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
        assert!(server_config(&cert, &key, None).is_ok());
        assert!(server_config(&cert, &key, Some(&cert)).is_ok());
        assert!(client_config(Some(&cert), true).is_ok());
        assert!(client_config(Some(&cert), false).is_ok(), "also where the system has no CAs");
    }

    #[test]
    fn every_error_names_the_file_and_what_is_wrong_in_it() {
        let files = Files::new();
        let cases = [
            (
                "cert.pem",
                "other-key.pem",
                "the key in other-key.pem does not belong to the first certificate in cert.pem",
            ),
            ("missing.pem", "key.pem", "cannot read missing.pem"),
            ("cert.pem", "missing.pem", "cannot read missing.pem"),
            ("key.pem", "key.pem", "key.pem has no certificate in it"),
            ("cert.pem", "cert.pem", "cert.pem has no private key in it"),
            ("text", "key.pem", "text is not PEM: it has no certificate between BEGIN and END lines"),
            ("cert.pem", "text", "text is not PEM: it has no private key between BEGIN and END lines"),
            (
                "cert.der",
                "key.pem",
                "cert.der is DER, not PEM: convert it (openssl x509 -inform der, or openssl pkey -inform der)",
            ),
            ("cut.pem", "key.pem", "cut.pem is not proper PEM: "),
            ("nonsense.pem", "key.pem", "nonsense.pem has a certificate that cannot be used: "),
            ("cert.pem", "encrypted.pem", "encrypted.pem has an encrypted key: write it without a passphrase"),
        ];
        for (cert, key, expected) in cases {
            let error = server_config(&files.path(cert), &files.path(key), None).expect_err(expected);
            let shown = files.shown(&error);
            assert!(shown.starts_with(expected), "{shown} for {expected}");
        }
    }

    #[test]
    fn a_client_says_what_is_wrong_with_its_ca_file() {
        let files = Files::new();
        for only_that_ca in [false, true] {
            for (name, expected) in [
                ("key.pem", "key.pem has no certificate in it"),
                ("nonsense.pem", "nonsense.pem has a certificate that cannot be used: "),
            ] {
                let error = client_config(Some(&files.path(name)), only_that_ca).expect_err(expected);
                assert!(files.shown(&error).starts_with(expected), "{error}");
            }
        }
        assert!(matches!(client_config(None, true), Err(TlsError::NothingToPin)));
    }
}
