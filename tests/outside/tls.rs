//! sslyze on the server's TLS: versions 1.2 and 1.3 and nothing that deviates from Mozilla's intermediate profile, with a certificate
//! as administrators make it (P-256, 90 days). The control asks for the modern profile, which 1.2 is too old for.

use std::process::Command;
use std::time::Duration;

use chrono::{Datelike, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::Value;

use crate::harness::{Fleet, Process, eventually, text};
use crate::tool;

/// So many days from now.
fn date(offset: i64) -> (i32, u8, u8) {
    let day = Utc::now() + TimeDelta::days(offset);
    let part = |number: u32| u8::try_from(number).expect("small");
    (day.year(), part(day.month()), part(day.day()))
}

#[test]
fn tls_is_what_mozilla_calls_intermediate() {
    let Some(program) = tool("sslyze") else { return };
    let fleet = Fleet::new();
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.distinguished_name.push(DnType::CommonName, "an authority of our own");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let day = |(year, month, day)| date_time_ymd(year, month, day);
    (leaf.not_before, leaf.not_after) = (day(date(-1)), day(date(89)));
    let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
    fleet.write("ca.pem", &authority.pem());
    fleet.write("config/tls.crt", &leaf.pem());
    fleet.write("config/tls.key", &key.serialize_pem());
    fleet
        .write("config/server.toml", "secret_roots = [\"../secrets\"]\n[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n");
    let (config, state, ca) = (fleet.path("config"), fleet.path("state"), fleet.path("ca.pem"));
    let _server = Process::serve(&config, &state, fleet.port, &fleet.path("server.log"), &[]);
    let url = format!("https://localhost:{}/readyz", fleet.port);
    eventually("the server is ready", Duration::from_secs(20), || {
        let asked =
            Command::new("curl").args(["-sSf", "-m", "20", "--cacert", text(&ca), &url]).output().expect("curl runs");
        asked.status.success().then_some(())
    });

    let scan = |profile: &str| {
        let report = fleet.path("sslyze.json");
        let output = Command::new(&program)
            .args(["--mozilla_config", profile, "--certinfo_ca_file", text(&ca), "--json_out", text(&report)])
            .arg(format!("localhost:{}", fleet.port))
            .output()
            .expect("sslyze runs");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let report: Value =
            std::fs::read_to_string(report).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        (output.status.success(), said, report)
    };
    let (is_compliant, said, report) = scan("intermediate");
    assert!(is_compliant, "{said}");
    let results = &report["server_scan_results"][0]["scan_result"];
    for (version, accepted) in [
        ("ssl_2_0", false),
        ("ssl_3_0", false),
        ("tls_1_0", false),
        ("tls_1_1", false),
        ("tls_1_2", true),
        ("tls_1_3", true),
    ] {
        let suites = results[format!("{version}_cipher_suites")]["result"]["accepted_cipher_suites"].as_array();
        let suites = suites.unwrap_or_else(|| unreachable!("sslyze did not look at {version}: {said}"));
        assert_eq!(!suites.is_empty(), accepted, "{version}: {suites:?}");
    }
    let (is_compliant, said, _) = scan("modern");
    assert!(!is_compliant && said.contains("TLSv1.2"), "the modern profile has no TLS 1.2: {said}");
}
