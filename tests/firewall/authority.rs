//! Certificates: an authority of a company's own, servers' certificates by it, and the authority of a proxy that looks into TLS.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::harness::Fleet;

/// The server's authority, and the one of a proxy that makes certificates as it goes, both files in the fleet's directory.
pub(crate) const CA_FILE: &str = "authority.pem";
pub(crate) const PROXY_CA_FILE: &str = "proxy-authority.pem";
/// With its key, as squid wants it.
pub(crate) const PROXY_CA_WITH_KEY: &str = "proxy-authority-and-key.pem";

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Writes both authorities' files.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let issuer = issuer("the company's authority");
        fleet.write(CA_FILE, &issuer.pem());
        let proxy = self::issuer("the proxy's authority");
        fleet.write(PROXY_CA_FILE, &proxy.pem());
        fleet.write(PROXY_CA_WITH_KEY, &(proxy.pem() + &proxy.key().serialize_pem()));
        Self { issuer }
    }

    /// Writes a certificate for a server of this name into `config/tls.crt` and `config/tls.key`, and both into `tls.pem`.
    pub(crate) fn certify(&self, fleet: &Fleet, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, name);
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        fleet.write("config/tls.crt", &leaf.pem());
        fleet.write("config/tls.key", &key.serialize_pem());
        fleet.write("tls.pem", &(leaf.pem() + &key.serialize_pem()));
    }
}

fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority")
}
