//! The server's TLS files while it runs: new ones are served within seconds, bad ones change nothing and are told, no connection is
//! lost; and agents, not operators, must show a certificate where `client_ca` says so. Looked at with openssl and curl.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use sha2::Digest;

use crate::bad_input::{INSTANCE, JSON, STREAM, hello};
use crate::harness::{Answer, Fleet, Process, SERVER, eventually, text};
use crate::parked::Scene;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate with this name, and its key.
fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    (params(name).self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// An authority of clients.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// The name in the certificate that a new connection is shown.
fn served(port: u16) -> Option<String> {
    let address = format!("127.0.0.1:{port}");
    let mut openssl = Command::new("openssl");
    let shown = openssl.args(["s_client", "-connect", &address]).stdin(Stdio::null()).output().expect("openssl runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let subject = shown.lines().find_map(|line| line.strip_prefix("subject="))?;
    Some(subject.rsplit('=').next().unwrap_or_default().trim().to_owned())
}

/// curl over TLS to whatever certificate is there, with the admin's token where no other header is given.
fn curl(fleet: &Fleet, arguments: &[&str]) -> Option<Answer> {
    let (path, options) = arguments.split_last().expect("a path");
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "-m", "30", "-w", "\n%{content_type}\n%{http_code}", "-H", JSON]).args(options);
    if !options.iter().any(|option| option.starts_with("Authorization")) {
        curl.args(["-H", &fleet.bearer()]);
    }
    let output = curl.arg(format!("https://127.0.0.1:{}{path}", fleet.port)).output().expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts = answer.rsplitn(3, '\n').map(str::to_owned);
    let code = parts.next()?.parse().ok().filter(|code| *code > 0)?;
    Some(Answer { code, content_type: parts.next()?, allow: String::new(), body: parts.next()? })
}

/// The problem with the TLS files that the server shows, if it does.
fn problem(fleet: &Fleet) -> Option<String> {
    let config = curl(fleet, &["/v1/config"])?.json();
    let problems = config["problems"].as_array().expect("a list").clone();
    let of_tls =
        problems.iter().find(|problem| problem["message"].as_str().is_some_and(|m| m.contains("TLS goes on")))?;
    assert_eq!((&of_tls["severity"], &config["files_run"]), (&json!("warning"), &json!(true)), "{config}");
    Some(of_tls["message"].to_string())
}

fn becomes<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, mut probe: impl FnMut() -> T) {
    eventually(what, Duration::from_secs(15), || (probe() == *wanted).then_some(()));
}

#[test]
fn new_files_are_served_within_seconds_bad_ones_change_nothing_and_no_connection_is_lost() {
    let scene = Scene::new(true);
    let fleet = &scene.fleet;
    let put = |pair: &(String, String)| {
        fleet.write("config/tls.crt", &pair.0);
        fleet.write("config/tls.key", &pair.1);
    };
    let shows = |name: &str| becomes(name, &Some(name.to_owned()), || served(fleet.port));
    let mut parked = scene.connect();
    scene.park(&mut parked, "HTTP/1.1");

    let one = pair("one");
    put(&one);
    shows("one");
    // Garbage, nothing, and half of a pair.
    let two = pair("two");
    for (file, bad, expected) in [
        ("config/tls.crt", "garbage", "tls.crt is not PEM"),
        ("config/tls.crt", &one.0[..200], "tls.crt"),
        ("config/tls.crt", &two.0, "tls.key does not belong to the first certificate in"),
    ] {
        fleet.write(file, bad);
        becomes(expected, &true, || problem(fleet).is_some_and(|problem| problem.contains(expected)));
        assert_eq!(served(fleet.port).as_deref(), Some("one"));
    }
    std::fs::remove_file(fleet.path("config/tls.key")).expect("removed");
    becomes("a file that is gone", &true, || problem(fleet).is_some_and(|problem| problem.contains("cannot read")));
    let warned = fleet.read("server.log").matches("does not belong to the first").count();
    assert_eq!(warned, 1, "once");
    fleet.write("config/tls.key", &two.1);
    shows("two");
    becomes("no problem", &None, || problem(fleet));

    // Looked at before a reload is answered, and with SIGHUP.
    put(&pair("three"));
    assert_eq!(curl(fleet, &["-X", "POST", "/v1/config/reload"]).expect("an answer").code, 200);
    assert_eq!(served(fleet.port).as_deref(), Some("three"));
    put(&pair("four"));
    fleet.server.as_ref().expect("a server").signal("HUP");
    shows("four");

    // Other paths are live too; a link that is swapped is another file.
    let five = pair("five");
    fleet.write("config/other.crt", &five.0);
    fleet.write("config/other.key", &five.1);
    let settings = fleet.read("config/server.toml");
    fleet.write("config/server.toml", &settings.replace("tls.", "other."));
    shows("five");
    let six = pair("six");
    for (link, text) in [("config/other.crt", &six.0), ("config/other.key", &six.1)] {
        fleet.write(&format!("{link}.new"), text);
        std::os::unix::fs::symlink(fleet.path(&format!("{link}.new")), fleet.path("config/link")).expect("a link");
        std::fs::rename(fleet.path("config/link"), fleet.path(link)).expect("renamed");
    }
    shows("six");

    // The poll has been parked all along, on a connection with the first certificate.
    let job = curl(fleet, &["-d", r#"{"kind":"check"}"#, "/v1/hosts/web-1/jobs"]).expect("an answer").json();
    let (head, body) = parked.answer();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body["messages"][0]["payload"]["job_id"], job["id"], "{body}");
}

/// A server with TLS.
struct Guarded {
    fleet: Fleet,
}

impl Guarded {
    /// `more`: lines of `[tls]`.
    fn new(more: &str) -> Self {
        let fleet = Fleet::new();
        let certificate = pair("the server");
        fleet.write("config/tls.crt", &certificate.0);
        fleet.write("config/tls.key", &certificate.1);
        let mut guarded = Self { fleet };
        guarded.set_tls(more);
        let fleet = &mut guarded.fleet;
        let (config, state, log) = (fleet.path("config"), fleet.path("state"), fleet.path("server.log"));
        let listen = format!("127.0.0.1:{}", fleet.port);
        let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", &listen];
        fleet.server = Some(Process::start(SERVER, &arguments, &log, &[("RUST_LOG", "debug")]));
        eventually("the server is ready", Duration::from_secs(20), || curl(fleet, &["/readyz"]));
        guarded
    }

    fn set_tls(&self, more: &str) {
        let settings = "secret_roots = [\"../secrets\"]\n[tls]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n";
        self.fleet.write("config/server.toml", &format!("{settings}{more}"));
    }

    /// A client's certificate and key, in files.
    fn client(&self, name: &str, by: &CertifiedIssuer<'static, KeyPair>) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(name).signed_by(&key, by).expect("a certificate");
        self.fleet.write(&format!("{name}.pem"), &certificate.pem());
        self.fleet.write(&format!("{name}.key"), &key.serialize_pem());
        (self.fleet.path(&format!("{name}.pem")), self.fleet.path(&format!("{name}.key")))
    }

    fn enroll(&self, more: &[&str]) -> Option<Answer> {
        let token =
            curl(&self.fleet, &["-d", r#"{"host":"web-1"}"#, "/v1/enrollment-tokens"]).expect("an answer").json();
        let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest("rma_one"));
        let body =
            json!({"token": token["token"], "enrollment_id": INSTANCE, "host": "web-1", "credential_sha256": sha256});
        curl(&self.fleet, &[more, &["-d", &body.to_string(), "/v1/enroll"]].concat())
    }

    fn greet(&self, more: &[&str]) -> Option<Answer> {
        let body = hello(INSTANCE, STREAM).to_string();
        let request = ["-H", "Authorization: Bearer rma_one", "-d", &body, "/v1/agents/web-1/hello"];
        curl(&self.fleet, &[more, &request].concat())
    }
}

fn code_of(answer: Option<Answer>) -> (u16, Value) {
    let answer = answer.expect("an answer");
    (answer.code, answer.json()["code"].clone())
}

#[test]
fn agents_must_show_a_certificate_by_client_ca_and_operators_need_none() {
    let ours = authority("our clients");
    let scene = Guarded::new("");
    scene.fleet.write("config/ca.pem", &ours.pem());
    let (certificate, key) = scene.client("web-1", &ours);
    let (foreign, foreign_key) = scene.client("foreign", &authority("their clients"));
    let shown = ["--cert", text(&certificate), "--key", text(&key)];
    let strangers = ["--cert", text(&foreign), "--key", text(&foreign_key)];
    assert_eq!(code_of(scene.enroll(&[])), (200, Value::Null));
    assert_eq!(code_of(scene.greet(&[])), (200, Value::Null), "nobody is asked for one yet");

    scene.set_tls("client_ca = \"ca.pem\"\n");
    let refused = (401, json!("client-certificate"));
    becomes("client_ca is in force", &refused, || code_of(scene.greet(&[])));
    assert!(scene.greet(&[]).is_some_and(|answer| answer.body.contains("client_ca")), "what to do is told");
    assert_eq!(code_of(scene.enroll(&[])), refused);
    assert_eq!(code_of(scene.greet(&shown)), (200, Value::Null));
    assert_eq!(code_of(scene.enroll(&shown)), (200, Value::Null));
    for path in ["/v1/hosts", "/readyz", "/v1/config"] {
        assert_eq!(code_of(curl(&scene.fleet, &[path])).0, 200, "{path}");
    }
    assert!(scene.greet(&strangers).is_none(), "a certificate by somebody else ends the handshake");

    // Another authority: certificates by the one before count no more.
    let theirs = authority("our clients of this year");
    let (newer, newer_key) = scene.client("newer", &theirs);
    scene.fleet.write("config/ca.pem", &theirs.pem());
    let newer = ["--cert", text(&newer), "--key", text(&newer_key)];
    eventually("the other authority is in force", Duration::from_secs(15), || {
        scene.greet(&newer).filter(|answer| answer.code == 200)
    });
    assert!(scene.greet(&shown).is_none());
    scene.set_tls("");
    becomes("client_ca is gone", &(200, Value::Null), || code_of(scene.greet(&[])));
}

/// Its agent cannot show on it what nobody has asked for: it has to come again.
#[test]
fn a_connection_from_before_client_ca_is_refused_and_closed() {
    let scene = Scene::new(true);
    let fleet = &scene.fleet;
    let mut line = scene.connect();
    let body = hello(INSTANCE, STREAM).to_string();
    let greet = format!(
        "POST /v1/agents/web-1/hello HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        scene.credential(),
        body.len()
    );
    line.send(&greet);
    assert!(line.answer().0.starts_with("HTTP/1.1 200 "));
    fleet.write("config/ca.pem", &authority("our clients").pem());
    fleet.write("config/server.toml", &(fleet.read("config/server.toml") + "client_ca = \"ca.pem\"\n"));
    assert_eq!(curl(fleet, &["-X", "POST", "/v1/config/reload"]).expect("an answer").code, 200);
    line.send(&greet);
    let (head, body) = line.answer();
    assert!(head.starts_with("HTTP/1.1 401 ") && head.contains("connection: close"), "{head}");
    assert_eq!(body["code"], "client-certificate");
    assert!(line.has_ended());
}
