//! P12: every operation of the server's table, asked by everybody: who may not, gets nothing; who may, is let in, and is answered as
//! /openapi.json says. The control judges the same answers by every other class of access, each of which must be found wrong.

use std::time::Duration;

use restic_manager::server::access::Role;
use restic_manager::server::http::routes::{Access, Operation, Reach, operations};
use restic_manager::server::page::parts;
use serde_json::{Value, json};
use sha2::Digest;

use crate::bad_input::{INSTANCE, STREAM, hello};
use crate::harness::{Answer, Fleet, eventually};
use crate::receivers::Receiver;
use crate::schema::{complaints, document, resolved};

/// What is sent: to which operation, with which query, and which body. A new operation needs a line here. All of it is about the host
/// web-1, and `TOKEN` is what the caller has.
fn request(operation: &Operation) -> Option<(&'static str, Option<Value>)> {
    let heartbeat = json!({"sent_at": "2026-01-01T00:00:00Z"});
    let events = "?stream=22222222-2222-4222-8222-222222222222&instance=11111111-1111-4111-8111-111111111111";
    Some(match (operation.method.as_str(), operation.path) {
        ("POST", "/v1/enroll") => ("", Some(enrollment("TOKEN", OWN))),
        ("POST", "/v1/agents/{host}/hello") => ("", Some(hello(INSTANCE, STREAM))),
        ("POST", "/v1/agents/{host}/heartbeat") => ("", Some(heartbeat)),
        ("GET", "/v1/agents/{host}/commands") => ("?wait=0&instance=11111111-1111-4111-8111-111111111111", None),
        ("POST", "/v1/agents/{host}/events") => (events, Some(Value::Null)),
        ("POST", "/v1/agents/{host}/jobs/{job}/log") => ("", Some(Value::Null)),
        ("POST", "/v1/agents/{host}/credential") => ("", Some(json!({"credential_sha256": sha256("the next one")}))),
        ("GET", "/v1/hosts") => ("?limit=10", None),
        ("GET", "/v1/hosts/{host}") => ("", None),
        ("GET", "/v1/hosts/{host}/schedules") => ("", None),
        ("GET", "/v1/hosts/{host}/jobs") => ("?limit=10", None),
        ("POST", "/v1/hosts/{host}/jobs") => ("", Some(json!({"kind": "check", "queue_for": "1h"}))),
        ("POST", "/v1/hosts/{host}/restore") => ("", Some(json!({"snapshot": "latest", "queue_for": "1h"}))),
        ("GET", "/v1/hosts/{host}/snapshots") => ("", None),
        ("GET", "/v1/hosts/{host}/snapshots/{snapshot}/ls") => ("?wait=0", None),
        ("GET", "/v1/hosts/{host}/snapshots/{snapshot}/diff/{other}") => ("?wait=0", None),
        ("GET", "/v1/hosts/{host}/find") => ("?wait=0&pattern=x", None),
        ("GET", "/v1/hosts/{host}/stats") => ("?wait=0", None),
        ("DELETE", "/v1/hosts/{host}/credential") => ("", None),
        ("GET", "/v1/jobs/{job}") => ("", None),
        ("GET", "/v1/jobs/{job}/log") => ("", None),
        ("POST", "/v1/jobs/{job}/cancel" | "/v1/jobs/{job}/abandon") => ("", None),
        ("GET", "/v1/events") => ("?wait=0", None),
        ("GET", "/v1/config" | "/v1/config/files") => ("", None),
        ("POST", "/v1/config/reload") => ("", None),
        ("POST", "/v1/enrollment-tokens") => ("", Some(json!({"host": "web-1"}))),
        ("GET", "/v1/alerts") => ("?limit=10", None),
        // Everything was enrolled a moment ago.
        ("GET", "/v1/status") => ("?max_age=1y", None),
        ("GET", "/metrics") => ("", None),
        ("POST", "/v1/alerts/{alert}/ack") => ("", None),
        ("GET", "/v1/alerts/channels") => ("", None),
        ("POST", "/v1/alerts/test") => ("", Some(json!({"channel": "hook"}))),
        ("GET", "/v1/audit") => ("?limit=10", None),
        ("GET", "/hosts/{host}" | "/hosts/{host}/snapshots/{snapshot}" | "/jobs/{job}") => ("", None),
        ("GET", "/" | "/alerts" | "/audit" | "/page/{part}") => ("", None),
        ("GET", "/healthz" | "/readyz" | "/openapi.json") => ("", None),
        _ => return None,
    })
}

/// The credentials of web-1's agent, of web-1's agent before it was revoked, and of another host's.
const OWN: &str = "the credential of web-1, which has an agent";
const REVOKED: &str = "the credential of web-1 before that";
const FOREIGN: &str = "the credential of web-2";

/// Who asks, and what they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Nobody,
    /// With a token that would let web-1's agent in.
    EnrollmentToken,
    Agent,
    RevokedAgent,
    /// Another host's.
    ForeignAgent,
    Operator(Role, Limit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    /// To other hosts than web-1.
    Others,
}

const CALLERS: [Caller; 11] = [
    Caller::Nobody,
    Caller::EnrollmentToken,
    Caller::Agent,
    Caller::RevokedAgent,
    Caller::ForeignAgent,
    Caller::Operator(Role::Viewer, Limit::None),
    Caller::Operator(Role::Operator, Limit::None),
    Caller::Operator(Role::Admin, Limit::None),
    Caller::Operator(Role::Viewer, Limit::Others),
    Caller::Operator(Role::Operator, Limit::Others),
    Caller::Operator(Role::Admin, Limit::Others),
];

/// What an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Anything that does not turn the caller away.
    LetIn,
    /// 401 or 403.
    Denied,
    /// 404, as if there were no such host or job.
    Hidden,
    /// Let in, without a word of web-1.
    NothingOfIt,
}

/// The rule of each class of access.
fn expected(access: Access, caller: Caller) -> Expected {
    match (access, caller) {
        (Access::Open, _) | (Access::EnrollmentToken, Caller::EnrollmentToken) | (Access::Agent, Caller::Agent) => {
            Expected::LetIn
        }
        (Access::Operator(least, _), Caller::Operator(role, _)) if role < least => Expected::Denied,
        (Access::Operator(..), Caller::Operator(_, Limit::None)) => Expected::LetIn,
        (Access::Operator(_, reach), Caller::Operator(_, Limit::Others)) => match reach {
            Reach::Host => Expected::Hidden,
            Reach::List => Expected::NothingOfIt,
            Reach::Fleet => Expected::Denied,
        },
        _ => Expected::Denied,
    }
}

fn is_as_expected(expected: Expected, answer: &Answer) -> bool {
    let is_let_in = answer.code < 500 && !matches!(answer.code, 401 | 403 | 404 | 405);
    match expected {
        Expected::LetIn => is_let_in,
        Expected::Denied => matches!(answer.code, 401 | 403),
        Expected::Hidden => answer.code == 404,
        Expected::NothingOfIt => is_let_in && !answer.body.contains("web-1"),
    }
}

fn sha256(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(text.as_bytes()))
}

/// An enrollment of web-1 with this credential: each a new one, whoever repeats it.
fn enrollment(token: &str, credential: &str) -> Value {
    let id = uuid::Uuid::new_v4();
    json!({"token": token, "enrollment_id": id, "host": "web-1", "credential_sha256": sha256(credential)})
}

struct Matrix {
    fleet: Fleet,
    enrollment_token: String,
    job: String,
    /// Where the channel `hook` leads.
    _receiver: Receiver,
}

impl Matrix {
    fn new() -> Self {
        let mut fleet = Fleet::new();
        fleet.write("config/hosts/web-2.toml", &fleet.read("config/hosts/web-1.toml"));
        fleet.write("secrets/web-2", "another-password");
        fleet.start_server();
        let receiver = Receiver::start();
        let mut settings = fleet.read("config/server.toml");
        settings += &format!("[alerts.channels.hook]\nkind = \"webhook\"\nurl = {:?}\n", receiver.url("/"));
        settings += &format!("[[tokens]]\nname = \"first\"\nrole = \"admin\"\nsha256 = {:?}\n", sha256(&fleet.token()));
        for caller in CALLERS {
            let Caller::Operator(role, limit) = caller else { continue };
            let name = name(role, limit);
            settings += &format!("[[tokens]]\nname = {name:?}\nrole = \"{role}\"\nsha256 = {:?}\n", sha256(&name));
            if limit == Limit::Others {
                settings += "hosts = [\"web-2\", \"db-*\"]\n";
            }
        }
        fleet.write("config/server.toml", &settings);
        let viewer = format!("Authorization: Bearer {}", name(Role::Viewer, Limit::None));
        eventually("the tokens are loaded", Duration::from_secs(10), || {
            (fleet.ask(&viewer, &["/v1/hosts"]).expect("an answer").code == 200).then_some(())
        });
        let job = fleet.post("/v1/hosts/web-1/jobs", r#"{"kind":"init","queue_for":"1h"}"#)["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let mut matrix = Self { fleet, enrollment_token: String::new(), job, _receiver: receiver };
        matrix.enroll("web-2", FOREIGN);
        matrix.enroll("web-1", REVOKED);
        let revoked = matrix.fleet.curl(&["-X", "DELETE", "/v1/hosts/web-1/credential"]).expect("an answer");
        assert_eq!(revoked.0, 200, "{}", revoked.1);
        matrix.as_it_was();
        matrix.refuse_a_scheduled_job();
        matrix
    }

    /// As web-1's agent: a fire whose job it then refuses, which raises an alert.
    fn refuse_a_scheduled_job(&self) {
        let at = "2026-01-01T03:00:00Z";
        let (host, schedule) = ("web-1".parse().expect("a name"), "data".parse().expect("an id"));
        let job = restic_manager::id::job_id_of_fire(&host, &schedule, at.parse().expect("an instant"));
        let fire = json!({"schedule_id": "data", "scheduled_at": at, "fired_at": at, "job_id": job});
        let refusal = json!({"job_id": job, "accepted": false, "error": "not here"});
        let events = [("schedule.fire", fire), ("command.result", refusal)];
        let lines = (1..).zip(events).map(|(seq, (kind, payload))| {
            json!({"seq": seq, "ts": at, "type": kind, "payload": payload}).to_string() + "\n"
        });
        let header = format!("Authorization: Bearer {OWN}");
        let path = format!("/v1/agents/web-1/events?stream={STREAM}&instance={INSTANCE}");
        let taken = self.fleet.ask(&header, &["--data-binary", &lines.collect::<String>(), &path]).expect("an answer");
        assert_eq!(taken.code, 200, "{}", taken.body);
    }

    /// One that is open now: while web-1 has no agent there are none.
    fn alert(&self) -> String {
        eventually("web-1 has an alert", Duration::from_secs(30), || {
            let alerts = self.fleet.get("/v1/hosts/web-1")["alerts"].take();
            Some(alerts.get(0)?["id"].as_str()?.to_owned())
        })
    }

    /// An agent that may come, and an enrollment token that was not used: an operation may have taken either away.
    fn as_it_was(&mut self) {
        self.enroll("web-1", OWN);
        let header = format!("Authorization: Bearer {OWN}");
        let hello = hello(INSTANCE, STREAM).to_string();
        let said = self.fleet.ask(&header, &["-d", &hello, "/v1/agents/web-1/hello"]).expect("an answer");
        assert_eq!(said.code, 200, "{}", said.body);
        self.enrollment_token = self.new_token("web-1");
    }

    fn new_token(&self, host: &str) -> String {
        let made = self.fleet.post("/v1/enrollment-tokens", &json!({"host": host}).to_string());
        made["token"].as_str().expect("a token").to_owned()
    }

    fn enroll(&self, host: &str, credential: &str) {
        let mut body = enrollment(&self.new_token(host), credential);
        body["host"] = json!(host);
        self.fleet.post("/v1/enroll", &body.to_string());
    }

    fn ask(&self, operation: &Operation, caller: Caller) -> Answer {
        let (query, body) = request(operation)
            .unwrap_or_else(|| unreachable!("{} {} needs a line in `request`", operation.method, operation.path));
        let token = match caller {
            Caller::Nobody => String::new(),
            Caller::EnrollmentToken => self.enrollment_token.clone(),
            Caller::Agent => OWN.to_owned(),
            Caller::RevokedAgent => REVOKED.to_owned(),
            Caller::ForeignAgent => FOREIGN.to_owned(),
            Caller::Operator(role, limit) => name(role, limit),
        };
        let path =
            operation.path.replace("{host}", "web-1").replace("{job}", &self.job).replace("{part}", &parts::STYLE.name)
                + query;
        let path = path.replace("{snapshot}", "latest").replace("{other}", "latest");
        let path = if path.contains("{alert}") { path.replace("{alert}", &self.alert()) } else { path };
        let header = match caller {
            Caller::Nobody => "X-Nothing: here".to_owned(),
            _ => format!("Authorization: Bearer {token}"),
        };
        let body = body.map(|body| match body {
            Value::Null => String::new(),
            body => body.to_string().replace("TOKEN", &token),
        });
        let mut arguments = vec!["-X", operation.method.as_str()];
        if let Some(body) = &body {
            arguments.extend(["-H", "Content-Type: application/json", "-d", body]);
        }
        arguments.push(&path);
        self.fleet.ask(&header, &arguments).expect("an answer")
    }
}

/// An operator's name, which is its token too.
fn name(role: Role, limit: Limit) -> String {
    format!("{role}-{limit:?}")
}

/// What of the answer the document does not say.
fn undocumented(document: &Value, operation: &Operation, answer: &Answer) -> Vec<String> {
    if operation.is_page {
        let is_page = answer.content_type == "text/html; charset=utf-8" || operation.path.starts_with("/page/");
        return if is_page { Vec::new() } else { vec![format!("type {} of a page", answer.content_type)] };
    }
    let responses = &document["paths"][operation.path][operation.method.as_str().to_lowercase()]["responses"];
    let Some(response) = responses.get(answer.code.to_string()) else {
        return vec![format!("status {}", answer.code)];
    };
    let media_type = answer.content_type.split(';').next().unwrap_or_default();
    let Some(content) = resolved(document, response)["content"].get(media_type) else {
        return vec![format!("type {} of status {}", answer.content_type, answer.code)];
    };
    if media_type == "text/plain" {
        return Vec::new();
    }
    if media_type == "application/x-ndjson" {
        let lines = answer.body.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        return lines.flat_map(|line| complaints(document, &content["x-line-schema"], &line, "line")).collect();
    }
    complaints(document, &content["schema"], &answer.json(), "body")
}

#[test]
fn every_operation_is_open_to_whom_it_is_for_and_to_nobody_else() {
    let mut matrix = Matrix::new();
    let document = document();
    let mut wrong = Vec::new();
    let mut all_classes = vec![Access::Open, Access::EnrollmentToken, Access::Agent];
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        all_classes.extend([Reach::Host, Reach::List, Reach::Fleet].map(|reach| Access::Operator(role, reach)));
    }
    for operation in operations() {
        let place = format!("{} {}", operation.method, operation.path);
        let mut answers = Vec::new();
        for caller in CALLERS {
            let answer = matrix.ask(operation, caller);
            let expected = expected(operation.access(), caller);
            if !is_as_expected(expected, &answer) {
                wrong.push(format!("{place} by {caller:?} is not {expected:?}: {} {}", answer.code, answer.body));
            }
            for what in undocumented(&document, operation, &answer) {
                wrong.push(format!("{place} by {caller:?}: not in the document: {what}"));
            }
            if operation.path.ends_with("/credential") || operation.path == "/v1/enroll" {
                matrix.as_it_was();
            }
            answers.push((caller, answer));
        }
        // The control: with any other class in the table the same answers would be wrong.
        for class in all_classes.iter().filter(|class| **class != operation.access()) {
            let is_found = answers.iter().any(|(caller, answer)| !is_as_expected(expected(*class, *caller), answer));
            assert!(is_found, "{place} would pass for {class:?} too");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_answer_that_gives_too_much_or_too_little_is_found() {
    let answer = |code, body: &str| Answer {
        code,
        content_type: "application/json".to_owned(),
        allow: String::new(),
        body: body.to_owned(),
    };
    let ok = answer(200, r#"{"hosts":[{"name":"web-1"}]}"#);
    for expected in [Expected::Denied, Expected::Hidden, Expected::NothingOfIt] {
        assert!(!is_as_expected(expected, &ok), "{expected:?}");
    }
    for code in [401, 403, 404, 405, 500] {
        assert!(!is_as_expected(Expected::LetIn, &answer(code, "{}")), "{code}");
    }
}
