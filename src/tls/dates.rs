//! Pure. Whether a server's own certificate is valid by its dates: what no client accepts is to be told before the agents do.
//! Does not judge who signed it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};

/// From so long before its end on, an end is told.
const SOON: TimeDelta = TimeDelta::days(14);

/// What is wrong with the dates of the first certificate in a PEM text, now or soon.
pub fn dates_problem(certificate: &[u8], now: DateTime<Utc>) -> Option<&'static str> {
    match at(certificate, now)? {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            return Some("has expired, so that no agent connects: renew it, and its files are taken within seconds");
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            return Some("is not valid yet, or this server's clock is wrong: no agent connects");
        }
        _ => {}
    }
    match at(certificate, now + SOON)? {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some("expires within 14 days: renew it"),
        _ => None,
    }
}

/// The verifier looks at dates before it looks for an issuer, so it needs none that is right.
fn at(certificate: &[u8], now: DateTime<Utc>) -> Option<CertificateError> {
    let leaf = CertificateDer::pem_slice_iter(certificate).next()?.ok()?;
    let mut roots = RootCertStore::empty();
    roots.add(leaf.clone()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), super::provider()).build().ok()?;
    let name = ServerName::try_from("some.invalid").ok()?;
    let since = Duration::from_secs(u64::try_from(now.timestamp()).ok()?);
    match verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::since_unix_epoch(since)) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => Some(CertificateError::UnknownIssuer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_when_it_is_near_and_when_it_was() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let issuer = rcgen::Issuer::new(
            rcgen::CertificateParams::new(Vec::<String>::new()).expect("no name"),
            rcgen::KeyPair::generate().expect("a key"),
        );
        let of_ca = parameters.signed_by(&key, &issuer).expect("signed").pem();
        let of_itself = parameters.self_signed(&key).expect("signed").pem();
        for pem in [of_ca, of_itself] {
            let told = |day: &str| {
                dates_problem(pem.as_bytes(), format!("{day}T12:00:00Z").parse().expect("a time")).unwrap_or("fine")
            };
            assert!(told("2025-12-01").starts_with("is not valid yet"));
            assert_eq!(told("2026-02-01"), "fine");
            assert!(told("2026-03-25").starts_with("expires within 14 days"));
            assert!(told("2026-05-01").starts_with("has expired"));
        }
        assert_eq!(dates_problem(b"no PEM", DateTime::UNIX_EPOCH), None);
    }
}
