//! Nothing secret in any file, argv, log or answer: a dozen canaries go where secrets go, through jobs that succeed and jobs
//! that fail, with both sides at their most talkative; then everything that is left is searched for them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{AGENT, Fleet, Process, SERVER, eventually, text};

/// With characters that every encoding writes in another way.
const REPOSITORY_PASSWORD: &str = "canary-1 repo\"pässword/%41+\\x";
const WRONG_PASSWORD: &str = "canary-2-wrong&password";
const BACKEND_CREDENTIAL: &str = "canary-3:b@ckend/credential?";
const OPERATOR_TOKEN: &str = "rmo_canary-4-configured-operator-token";
const UNKNOWN_TOKEN: &str = "rmo_canary-5-token-of-nobody";
const UNKNOWN_ENROLLMENT: &str = "rme_canary-6-enrollment-of-nobody";
const URL_PASSWORD: &str = "canary-7-in-a-url";
const LITERAL_PASSWORD: &str = "canary-8-literal-in-toml";
const ENVIRONMENT_SECRET: &str = "canary-9-in-env-table";
const AGENTS_OWN_ENVIRONMENT: &str = "canary-10-of-the-agents-own-environment";

/// The files that are there to hold a secret, and the agent's copy of what restic needs.
const SECRET_FILES: [&str; 5] =
    ["secrets/web-1", "secrets/backend", "state/admin-token", "agent/identity.json", "agent/settings.json"];
/// restic's environment, where the repository's own secrets belong, and no other.
const RESTIC_ENVIRONMENT: &str = "observed-environment";

/// Every way in which a text may be written.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let percent = |keep: fn(u8) -> bool, upper: bool| -> String {
        let write = |b: u8| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") };
        secret.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { write(b) }).collect()
    };
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let lenient = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}%/?#@:[]".contains(&b);
    let json = serde_json::to_string(secret).expect("JSON");
    let debug = format!("{secret:?}");
    let mut forms = vec![
        secret.to_owned(),
        percent(unreserved, true),
        percent(unreserved, false),
        percent(lenient, true),
        json.trim_matches('"').to_owned(),
        debug.trim_matches('"').to_owned(),
        secret.escape_default().to_string(),
        HEXLOWER.encode(secret.as_bytes()),
    ];
    // In base64 a text looks different at each of three places; its first and last characters depend on its neighbours.
    for lead in 0..3 {
        let bytes = [&vec![b'x'; lead][..], secret.as_bytes()].concat();
        let whole = bytes.len() / 3 * 3;
        for encoded in [BASE64.encode(&bytes[..whole]), BASE64URL.encode(&bytes[..whole])] {
            forms.push(encoded[if lead == 0 { 0 } else { 4 }..].to_owned());
        }
    }
    forms.sort();
    forms.dedup();
    forms.into_iter().map(String::into_bytes).collect()
}

/// The canaries that the bytes hold, by name and form.
pub(crate) fn found_in(bytes: &[u8], canaries: &[(&str, String)]) -> Vec<String> {
    let hits = canaries.iter().flat_map(|(name, secret)| {
        let found = forms(secret).into_iter().filter(|form| memchr::memmem::find(bytes, form).is_some());
        found.map(move |form| format!("{name} as {}", String::from_utf8_lossy(&form)))
    });
    hits.collect()
}

pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// A storage server that refuses everybody, and repeats their credentials while doing so.
fn gossiping_storage() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let Ok(read) = stream.read(&mut request) else { continue };
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let secret = request.lines().find_map(|line| line.strip_prefix("Authorization: ")).unwrap_or("nothing");
            let _ = write!(
                stream,
                "HTTP/1.1 403 you are {secret}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{secret}",
                secret.len()
            );
        }
    });
    port
}

/// Applies what is in the configuration directory now, and waits until the agent has it.
pub(crate) fn reload(fleet: &Fleet) {
    let (code, answer) = fleet.try_post("/v1/config/reload", "{}");
    assert_eq!(code, 200, "{answer}");
    eventually("the agent has the settings", Duration::from_secs(20), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["config"]["applied"] == host["config"]["wanted"]).then_some(())
    });
}

pub(crate) fn start_talkative_server(fleet: &mut Fleet) {
    let (config, state, log) = (fleet.path("config"), fleet.path("state"), fleet.path("server.log"));
    fleet.server = Some(Process::serve(&config, &state, fleet.port, &log, &[("RUST_LOG", "trace")]));
    fleet.await_server();
}

/// restic, with its arguments and its environment noted.
pub(crate) fn observed_restic(fleet: &Fleet) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = fleet.path("restic-observed");
    let (arguments, environment) = (fleet.path("observed-arguments"), fleet.path(RESTIC_ENVIRONMENT));
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$0\" \"$@\" >> '{}'\nenv >> '{}'\nexec restic \"$@\"\n",
        text(&arguments),
        text(&environment)
    );
    fs::write(&path, script).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn enroll(fleet: &Fleet, token: &str, dir: &str) -> std::process::Output {
    let (url, dir) = (fleet.url(), fleet.path(dir));
    let arguments = ["enroll", "--server", &url, "--token", token, "--host", "web-1", "--dir", text(&dir)];
    Command::new(AGENT).args(arguments).env("RUST_LOG", "trace").output().expect("enroll runs")
}

#[test]
fn nothing_secret_is_in_any_file_argument_log_or_answer() {
    let mut fleet = Fleet::new();
    let mut answers: Vec<(String, String)> = Vec::new();
    fleet.write("secrets/web-1", REPOSITORY_PASSWORD);
    fleet.write("secrets/backend", BACKEND_CREDENTIAL);
    start_talkative_server(&mut fleet);
    // The admin's token that the server made goes on beside a configured one.
    let token = |name: &str, role: &str, secret: &str| {
        let sha256 = HEXLOWER.encode(&Sha256::digest(secret.as_bytes()));
        format!("[[tokens]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n")
    };
    let tokens = [token("ops", "operator", OPERATOR_TOKEN), token("root", "admin", &fleet.token())].concat();
    fleet.write("config/server.toml", &format!("secret_roots = [\"../secrets\"]\n{tokens}"));
    assert_eq!(fleet.try_post("/v1/config/reload", "{}").0, 200);

    // Enrollment: with a token of nobody, then with a good one, twice.
    let refused = enroll(&fleet, UNKNOWN_ENROLLMENT, "stranger");
    assert!(!refused.status.success());
    answers.push(("enroll refused".to_owned(), String::from_utf8_lossy(&refused.stderr).into_owned()));
    let answer = fleet.post("/v1/enrollment-tokens", r#"{"host":"web-1"}"#);
    let enrollment_token = answer["token"].as_str().expect("a token").to_owned();
    let enrolled = enroll(&fleet, &enrollment_token, "agent");
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    answers.push(("enroll".to_owned(), format!("{enrolled:?}")));
    answers.push(("enroll with a used token".to_owned(), format!("{:?}", enroll(&fleet, &enrollment_token, "second"))));
    for dir in ["stranger", "second"] {
        let _ = fs::remove_dir_all(fleet.path(dir));
    }

    let restic = observed_restic(&fleet);
    fleet.permit_everything("agent", text(&restic));
    let environment =
        [("RUST_LOG", "trace"), ("RESTIC_PASSWORD", AGENTS_OWN_ENVIRONMENT), ("MY_SECRET", AGENTS_OWN_ENVIRONMENT)];
    let dir = fleet.path("agent");
    fleet.agent = Some(Process::start(AGENT, &["run", "--dir", text(&dir)], &fleet.path("agent.log"), &environment));
    eventually("the agent has its settings", Duration::from_secs(30), || {
        let host = fleet.get("/v1/hosts/web-1");
        (host["online"] == true && host["config"]["applied"] == host["config"]["wanted"]).then_some(())
    });

    // Jobs that succeed, by the configured operator.
    let operator = format!("Authorization: Bearer {OPERATOR_TOKEN}");
    let mut job = |status: &str, path: &str, body: &str| {
        let arguments = ["-X", "POST", "-H", "Content-Type: application/json", "-d", body, path];
        let (code, answer) = fleet.curl_as(&operator, &arguments).expect("an answer");
        let parsed: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert_eq!((code, parsed["status"].as_str()), (201, Some(status)), "{body}: {answer}");
        answers.push((body.to_owned(), answer));
    };
    let jobs = "/v1/hosts/web-1/jobs?wait=120";
    job("succeeded", jobs, r#"{"kind":"init"}"#);
    job("succeeded", jobs, r#"{"schedule_id":"data"}"#);
    job("succeeded", jobs, r#"{"kind":"check"}"#);
    let restore = format!(r#"{{"snapshot":"latest","target":{:?}}}"#, text(&fleet.path("restore/tree")));
    job("succeeded", "/v1/hosts/web-1/restore?wait=120", &restore);
    // Jobs that fail: a wrong password, a storage that nobody answers for, one that repeats what it was told.
    fleet.write("secrets/web-1", WRONG_PASSWORD);
    reload(&fleet);
    job("failed", jobs, r#"{"schedule_id":"data"}"#);
    let good = fleet.read("config/repositories/main.toml");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    for port in [closed, gossiping_storage()] {
        let remote = format!(
            "url = \"rest:http://127.0.0.1:{port}/r/\"\nusername = \"alice\"\ncredential = {{ file = \"../secrets/backend\" }}\npassword = {{ file = \"../secrets/{{host}}\" }}\n"
        );
        fleet.write("config/repositories/main.toml", &remote);
        reload(&fleet);
        job("failed", jobs, r#"{"kind":"init"}"#);
    }

    // What people type wrongly: each is refused, and told without the secret.
    for wrong in [
        format!(
            "url = \"rest:http://alice:{URL_PASSWORD}@127.0.0.1/r/\"\npassword = {{ file = \"../secrets/{{host}}\" }}\n"
        ),
        format!(
            "{}password = \"{LITERAL_PASSWORD}\"\n",
            good.lines().next().map(|line| format!("{line}\n")).unwrap_or_default()
        ),
        format!("{good}[env]\nAWS_SECRET_ACCESS_KEY = \"{ENVIRONMENT_SECRET}\"\n"),
        format!("{good}password = \"{LITERAL_PASSWORD}\"\ncredential = \"{LITERAL_PASSWORD}\" x {LITERAL_PASSWORD}\n"),
    ] {
        fleet.write("config/repositories/main.toml", &wrong);
        let (code, answer) = fleet.try_post("/v1/config/reload", "{}");
        assert!(answer["problems"].as_array().is_some_and(|list| !list.is_empty()), "{wrong}: {code} {answer}");
        answers.push(("a wrong configuration".to_owned(), answer.to_string()));
    }
    fleet.write("config/repositories/main.toml", &good);
    fleet.write("secrets/web-1", REPOSITORY_PASSWORD);
    reload(&fleet);

    // Tokens of nobody, wherever a token may stand.
    let basic = format!("Authorization: Basic {}", BASE64.encode(format!("alice:{UNKNOWN_TOKEN}").as_bytes()));
    let query = format!("/v1/hosts/web-1/jobs?token={UNKNOWN_TOKEN}&limit={UNKNOWN_TOKEN}");
    for (header, path) in [
        (format!("Authorization: Bearer {UNKNOWN_TOKEN}"), "/v1/hosts"),
        (basic, "/v1/hosts"),
        (format!("X-Restic-Manager-Token: {UNKNOWN_TOKEN}"), "/v1/agents/web-1/commands"),
        ("X-Nothing: 1".to_owned(), &query),
    ] {
        let (code, answer) = fleet.curl_as(&header, &[path]).expect("an answer");
        assert_eq!(code, 401, "{answer}");
        answers.push((path.to_owned(), answer));
    }

    // Everything that can be asked for.
    let list = fleet.get("/v1/hosts/web-1/jobs?limit=1000");
    let mut paths: Vec<String> = ["", "/schedules", "/jobs?limit=1000", "/snapshots"]
        .iter()
        .map(|path| format!("/v1/hosts/web-1{path}"))
        .chain(
            ["/v1/hosts", "/v1/events", "/v1/config", "/v1/status", "/v1/alerts", "/v1/audit", "/metrics", "/readyz"]
                .iter()
                .map(|path| (*path).to_owned()),
        )
        .collect();
    let ids: Vec<&str> = list["jobs"].as_array().expect("jobs").iter().filter_map(|job| job["id"].as_str()).collect();
    paths.extend(ids.iter().flat_map(|id| [format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/log")]));
    // The pages, which read the same in another shape.
    paths.extend(["/", "/hosts/web-1", "/alerts", "/audit"].map(str::to_owned));
    paths.extend(ids.iter().map(|id| format!("/jobs/{id}")));
    for path in &paths {
        let (code, answer) = fleet.curl(&["-i", path]).expect("an answer");
        assert!(code == 200 || path == "/v1/status", "{path}: {answer}");
        answers.push((path.clone(), answer));
    }
    let token_file = fleet.path("state/admin-token");
    let of_jobs = ids.iter().map(|id| vec!["log", id]);
    let of_hosts = [
        vec!["hosts"],
        vec!["host", "web-1"],
        vec!["jobs", "web-1"],
        vec!["alerts"],
        vec!["events"],
        vec!["snapshots", "web-1"],
    ];
    for command in of_hosts.into_iter().chain(of_jobs) {
        for json in [&[][..], &["--json"]] {
            let ran = Command::new(SERVER)
                .args(&command)
                .args(json)
                .args(["--server", &fleet.url(), "--token-file", text(&token_file)])
                .output()
                .expect("it runs");
            let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(ran.status.success(), "{command:?}: {said}");
            answers.push((command.join(" "), said));
        }
    }
    let status = Command::new(AGENT).args(["status", "--dir", text(&dir)]).output().expect("status runs");
    answers.push(("status".to_owned(), String::from_utf8_lossy(&status.stdout).into_owned()));

    let credential: Value = serde_json::from_str(&fleet.read("agent/identity.json")).expect("JSON");
    let credential = credential["credential"].as_str().expect("a credential").to_owned();
    let repository = [
        ("the repository's password", REPOSITORY_PASSWORD.to_owned()),
        ("the wrong password", WRONG_PASSWORD.to_owned()),
        ("the backend's credential", BACKEND_CREDENTIAL.to_owned()),
    ];
    let others = [
        ("the agent's credential", credential),
        ("the enrollment token", enrollment_token),
        ("the admin's token", fleet.token()),
        ("an operator's token", OPERATOR_TOKEN.to_owned()),
        ("a token of nobody", UNKNOWN_TOKEN.to_owned()),
        ("an enrollment token of nobody", UNKNOWN_ENROLLMENT.to_owned()),
        ("a password in a URL", URL_PASSWORD.to_owned()),
        ("a password written into a file", LITERAL_PASSWORD.to_owned()),
        ("a secret in env", ENVIRONMENT_SECRET.to_owned()),
        ("the agent's own environment", AGENTS_OWN_ENVIRONMENT.to_owned()),
    ];
    let canaries = [&repository[..], &others[..]].concat();
    (fleet.agent, fleet.server) = (None, None);

    let mut leaks = Vec::new();
    let files = files_below(fleet.dir.path());
    for path in &files {
        let name = text(path.strip_prefix(fleet.dir.path()).expect("below")).to_owned();
        if SECRET_FILES.contains(&name.as_str()) {
            continue;
        }
        let bytes = fs::read(path).unwrap_or_default();
        let sought = if name == RESTIC_ENVIRONMENT { &others[..] } else { &canaries[..] };
        leaks.extend(found_in(&bytes, sought).into_iter().map(|hit| format!("{name}: {hit}")));
    }
    for (what, answer) in &answers {
        leaks.extend(found_in(answer.as_bytes(), &canaries).into_iter().map(|hit| format!("answer to {what}: {hit}")));
    }
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));

    // The search would have found them: where they belong they are found, and in every form that was planted.
    for name in SECRET_FILES {
        assert!(!found_in(&fs::read(fleet.path(name)).expect("read"), &canaries).is_empty(), "{name} holds none");
    }
    let environment = fs::read(fleet.path(RESTIC_ENVIRONMENT)).expect("read");
    assert!(found_in(&environment, &repository).len() >= 3, "restic got the repository's secrets");
    assert!(fleet.read("observed-arguments").contains("backup"), "restic's arguments were seen");
    assert!(fleet.read("server.log").contains("DEBUG") && fleet.read("agent.log").contains("job begins"), "both talk");
    assert!(answers.iter().any(|(_, answer)| answer.contains("you are Basic YWxpY2U6***")), "the storage gossiped");
    for (name, secret) in &canaries {
        for form in forms(secret) {
            let planted = [b"{\"seq\":1,\"payload\":\"", &form[..], b"\"}\n"].concat();
            assert!(!found_in(&planted, &[(name, secret.clone())]).is_empty(), "{name}");
        }
        let basic = BASE64.encode(format!("alice:{secret}").as_bytes());
        assert!(!found_in(basic.as_bytes(), &[(name, secret.clone())]).is_empty(), "{name} in a Basic authorization");
    }
    eprintln!("{} canaries, {} files, {} answers: none found", canaries.len(), files.len(), answers.len());
}
