//! TLS from files: an agent enrolls and runs a job over it, and one that does not know the authority is told so.

use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::harness::{AGENT, Fleet, Process, SERVER, eventually, text};

#[test]
fn an_agent_enrolls_and_works_over_tls_with_a_private_authority() {
    let fleet = Fleet::new();
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority of our own");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "the server");
    let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
    fleet.write("ca.pem", &authority.pem());
    fleet.write("config/tls.crt", &leaf.pem());
    fleet.write("config/tls.key", &key.serialize_pem());
    fleet
        .write("config/server.toml", "secret_roots = [\"../secrets\"]\n[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n");

    let (config, state, ca) = (fleet.path("config"), fleet.path("state"), fleet.path("ca.pem"));
    let _server = Process::serve(&config, &state, fleet.port, &fleet.path("server.log"), &[]);
    let url = format!("https://127.0.0.1:{}", fleet.port);
    let curl = |arguments: &[&str], path: &str| {
        let authorization = format!("Authorization: Bearer {}", fleet.token());
        let output = Command::new("curl")
            .args([
                "-sS",
                "-m",
                "60",
                "--cacert",
                text(&ca),
                "-H",
                &authorization,
                "-H",
                "Content-Type: application/json",
            ])
            .args(arguments)
            .arg(format!("{url}{path}"))
            .output()
            .expect("curl runs");
        let answer = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok();
        if answer.is_none() {
            eprintln!("{}{}", String::from_utf8_lossy(&output.stderr), fleet.read("server.log"));
        }
        answer
    };
    eventually("the server is ready", Duration::from_secs(20), || curl(&[], "/readyz"));
    let token = curl(&["-d", r#"{"host":"web-1"}"#], "/v1/enrollment-tokens").expect("an answer");
    let token = token["token"].as_str().expect("a token");
    let enroll = |directory: &str, more: &[&str]| {
        let dir = fleet.path(directory);
        let mut command = Command::new(AGENT);
        command.args(["enroll", "--server", &url, "--token", token, "--host", "web-1", "--dir", text(&dir)]).args(more);
        command.output().expect("enroll runs")
    };
    let stranger = enroll("stranger", &[]);
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && said.contains("ca_file"), "what to change is told: {said}");
    let enrolled = enroll("agent", &["--ca-file", text(&ca)]);
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    let hosts = |more: &[&str]| {
        let mut command = Command::new(SERVER);
        command.args(["hosts", "--server", &url, "--token-file", text(&fleet.path("state/admin-token"))]).args(more);
        command.env("HOME", fleet.path("home")).env_remove("XDG_CONFIG_HOME").output().expect("it runs")
    };
    let said = String::from_utf8_lossy(&hosts(&[]).stderr).into_owned();
    assert!(said.contains("name its CA with --ca-file or ca_file in client.toml"), "operators are told too: {said}");
    assert!(hosts(&["--ca-file", text(&ca)]).status.success());
    let _agent = fleet.agent_process("agent");
    let job = curl(&["-d", r#"{"kind":"init"}"#], "/v1/hosts/web-1/jobs?wait=60").expect("an answer");
    assert_eq!(job["status"], "succeeded", "{job}");
}
