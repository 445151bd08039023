//! Edge. The table of operations: each method of each path, who may use it, and its handler. What a handler is given depends on
//! who may use it, so one for operators cannot be opened to anybody else by mistake. Does not look at tokens: `gate` does.

use std::pin::Pin;
use std::sync::Arc;

use hyper::Method;

use super::answer::{Answer, Problem};
use super::gate::Agent;
use super::request::Request;
use super::{
    agent, alerts, audit, config_files, credential, enrollment, host_pages, metrics, new_jobs, open, operator, pages,
    poll, queries, status, streams,
};
use crate::server::access::{Operator, Role};
use crate::server::app::App;

/// One method of one path. `openapi.json` has an entry for each that is no page, which a test compares.
pub struct Operation {
    pub method: Method,
    pub path: &'static str,
    /// The parameters of its query. Others are refused to operators, for whom a misspelt filter would else be none; agents may
    /// send what only later servers know.
    pub query: &'static [&'static str],
    /// For browsers, which want HTML, errors too; `openapi.json` leaves it out.
    pub is_page: bool,
    door: Door,
}

/// Who may use an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has an enrollment token. It is in the body, so the handler looks at it.
    EnrollmentToken,
    /// The agent of the path's `{host}`, by its credential.
    Agent,
    /// An operator of this role or a higher one.
    Operator(Role, Reach),
}

/// What an operation means to a token that is limited to some hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is about one host, which the path or the body names: another than the token's does not exist for it (404).
    Host,
    /// It lists what is the token's, and nothing of the rest.
    List,
    /// It is about the whole fleet: not for such a token (403).
    Fleet,
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send + 'a>>;
type OpenHandler = for<'a> fn(&'a Arc<App>, Request) -> Answering<'a>;
type AgentHandler = for<'a> fn(&'a Arc<App>, Request, Agent) -> Answering<'a>;
type OperatorHandler = for<'a> fn(&'a Arc<App>, Request, Operator) -> Answering<'a>;

/// The handler, with what it asks of the caller.
#[derive(Clone, Copy)]
pub(super) enum Door {
    Open(OpenHandler),
    EnrollmentToken(OpenHandler),
    Agent(AgentHandler),
    Operator(Role, Reach, OperatorHandler),
}

macro_rules! page {
    ($($row:tt)*) => { Operation { is_page: true, ..operation!($($row)*) } };
}

macro_rules! operation {
    ($method:ident $path:literal $query:tt, Operator($role:ident, $reach:ident), $handler:path) => {
        Operation {
            method: Method::$method,
            path: $path,
            query: &$query,
            is_page: false,
            door: Door::Operator(Role::$role, Reach::$reach, |app, request, operator| {
                Box::pin($handler(app, request, operator))
            }),
        }
    };
    ($method:ident $path:literal $query:tt, Agent, $handler:path) => {
        Operation {
            method: Method::$method,
            path: $path,
            query: &$query,
            is_page: false,
            door: Door::Agent(|app, request, agent| Box::pin($handler(app, request, agent))),
        }
    };
    ($method:ident $path:literal $query:tt, $door:ident, $handler:path) => {
        Operation {
            method: Method::$method,
            path: $path,
            query: &$query,
            is_page: false,
            door: Door::$door(|app, request| Box::pin($handler(app, request))),
        }
    };
}

/// A new operation has its row here, its entry in `openapi.json` (pages have none), and its requests in `tests/e2e/access.rs`.
#[rustfmt::skip]
static OPERATIONS: &[Operation] = &[
    operation!(POST "/v1/enroll" [], EnrollmentToken, agent::enroll),
    operation!(POST "/v1/agents/{host}/hello" [], Agent, agent::hello),
    operation!(POST "/v1/agents/{host}/heartbeat" [], Agent, agent::heartbeat),
    operation!(GET "/v1/agents/{host}/commands" ["instance", "after", "schedule_version", "schedule_hash", "config_version", "config_hash", "wait", "keepalive", "sent_at", "spool_bytes"], Agent, poll::commands),
    operation!(POST "/v1/agents/{host}/events" ["stream", "instance"], Agent, agent::events),
    operation!(POST "/v1/agents/{host}/jobs/{job}/log" [], Agent, agent::log),
    operation!(POST "/v1/agents/{host}/credential" [], Agent, credential::rotate),
    operation!(GET "/v1/hosts" ["limit", "after"], Operator(Viewer, List), operator::hosts),
    operation!(GET "/v1/hosts/{host}" [], Operator(Viewer, Host), operator::host),
    operation!(GET "/v1/hosts/{host}/schedules" [], Operator(Viewer, Host), operator::schedules),
    operation!(GET "/v1/hosts/{host}/jobs" ["limit", "before", "kind", "status", "schedule", "no_questions"], Operator(Viewer, Host), operator::jobs),
    operation!(POST "/v1/hosts/{host}/jobs" ["wait"], Operator(Operator, Host), new_jobs::create_job),
    operation!(POST "/v1/hosts/{host}/restore" ["wait"], Operator(Operator, Host), new_jobs::restore),
    operation!(GET "/v1/hosts/{host}/snapshots" ["refresh", "job", "wait"], Operator(Viewer, Host), queries::snapshots),
    operation!(GET "/v1/hosts/{host}/snapshots/{snapshot}/ls" ["path", "recursive", "limit", "after", "job", "wait"], Operator(Viewer, Host), queries::ls),
    operation!(GET "/v1/hosts/{host}/snapshots/{snapshot}/diff/{other}" ["limit", "after", "job", "wait"], Operator(Viewer, Host), queries::diff),
    operation!(GET "/v1/hosts/{host}/find" ["pattern", "snapshot", "since", "until", "ignore_case", "limit", "after", "job", "wait"], Operator(Viewer, Host), queries::find),
    operation!(GET "/v1/hosts/{host}/stats" ["snapshot", "mode", "job", "wait"], Operator(Viewer, Host), queries::stats),
    operation!(DELETE "/v1/hosts/{host}/credential" [], Operator(Admin, Host), enrollment::revoke),
    operation!(GET "/v1/jobs/{job}" [], Operator(Viewer, Host), operator::job),
    operation!(GET "/v1/jobs/{job}/log" ["after", "follow"], Operator(Viewer, Host), streams::log),
    operation!(POST "/v1/jobs/{job}/cancel" [], Operator(Operator, Host), operator::cancel),
    operation!(POST "/v1/jobs/{job}/abandon" [], Operator(Operator, Host), operator::abandon),
    operation!(GET "/v1/events" ["after", "wait", "host", "limit"], Operator(Viewer, List), streams::events),
    operation!(GET "/v1/config" [], Operator(Viewer, Fleet), streams::config),
    operation!(GET "/v1/config/files" [], Operator(Viewer, Fleet), config_files::files),
    operation!(POST "/v1/config/reload" [], Operator(Operator, Fleet), streams::reload),
    operation!(POST "/v1/enrollment-tokens" [], Operator(Admin, Host), enrollment::enrollment_token),
    operation!(GET "/v1/status" ["max_age", "host"], Operator(Viewer, List), status::status),
    operation!(GET "/v1/alerts" ["limit", "after"], Operator(Viewer, List), alerts::alerts),
    operation!(GET "/v1/alerts/channels" [], Operator(Viewer, Fleet), alerts::channels),
    operation!(POST "/v1/alerts/test" [], Operator(Operator, Fleet), alerts::test),
    operation!(POST "/v1/alerts/{alert}/ack" [], Operator(Operator, Host), alerts::acknowledge),
    operation!(GET "/v1/audit" ["limit", "before"], Operator(Admin, Fleet), audit::audit),
    operation!(GET "/metrics" [], Operator(Viewer, List), metrics::metrics),
    page!(GET "/" ["name", "show", "after"], Operator(Viewer, List), pages::fleet),
    page!(GET "/hosts/{host}" ["snapshots"], Operator(Viewer, Host), host_pages::host),
    page!(GET "/hosts/{host}/snapshots/{snapshot}" ["path", "job", "after"], Operator(Viewer, Host), host_pages::snapshot),
    page!(GET "/jobs/{job}" [], Operator(Viewer, Host), host_pages::job),
    page!(GET "/alerts" [], Operator(Viewer, List), pages::alerts),
    page!(GET "/audit" ["before"], Operator(Admin, Fleet), pages::audit),
    page!(GET "/page/{part}" [], Open, pages::part),
    operation!(GET "/healthz" [], Open, open::healthz),
    operation!(GET "/readyz" [], Open, open::readyz),
    operation!(GET "/openapi.json" [], Open, open::openapi),
];

/// All of them, for tests and documents.
pub fn operations() -> &'static [Operation] {
    OPERATIONS
}

impl Operation {
    pub fn access(&self) -> Access {
        match self.door {
            Door::Open(_) => Access::Open,
            Door::EnrollmentToken(_) => Access::EnrollmentToken,
            Door::Agent(_) => Access::Agent,
            Door::Operator(role, reach, _) => Access::Operator(role, reach),
        }
    }

    pub(super) fn door(&self) -> Door {
        self.door
    }

    /// The first name in the query that is none of its parameters.
    pub(super) fn unknown<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        names.find(|name| !self.query.contains(name))
    }

    /// The names in its path's braces, in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// The operations of one path.
pub(super) struct Methods(Vec<&'static Operation>);

impl Methods {
    /// The one with this method; else the problem names those there are.
    pub(super) fn operation(&self, method: &Method) -> Result<&'static Operation, Problem> {
        let found = self.0.iter().copied().find(|operation| operation.method == *method);
        found.ok_or_else(|| {
            let methods: Vec<&str> = self.0.iter().map(|operation| operation.method.as_str()).collect();
            Problem::method_not_allowed(&methods.join(", "))
        })
    }
}

pub(super) type Routes = matchit::Router<Methods>;

pub(super) fn routes() -> Routes {
    let mut router = Routes::new();
    for first in OPERATIONS {
        let methods: Vec<&Operation> = OPERATIONS.iter().filter(|operation| operation.path == first.path).collect();
        if std::ptr::eq(methods[0], first) {
            #[allow(clippy::expect_used, reason = "a constant table; `every_operation_is_found` proves it")]
            router.insert(first.path, Methods(methods)).expect("paths differ");
        }
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found() {
        let routes = routes();
        for operation in operations() {
            let path =
                operation.path.replace("{host}", "web-1").replace("{job}", "0190b5a2-7c1e-4c3a-9f00-0123456789ab");
            let found = routes.at(&path).expect("the path is known").value.operation(&operation.method);
            let found = found.map_err(Problem::into_answer).expect("and the method");
            assert!(std::ptr::eq(found, operation), "{} {path}", operation.method);
        }
    }

    #[test]
    fn a_method_that_is_not_there_is_told_which_are() {
        let routes = routes();
        for (path, allowed) in [("/v1/hosts/a/jobs", "GET, POST"), ("/v1/hosts/a/credential", "DELETE")] {
            let problem = routes.at(path).expect("known").value.operation(&Method::PATCH).err().expect("refused");
            assert_eq!(problem.into_answer().headers()["allow"], allowed);
        }
    }

    #[test]
    fn a_parameter_that_is_not_there_is_found() {
        let jobs = operations().iter().find(|o| o.path == "/v1/hosts/{host}/jobs" && o.method == Method::GET);
        let jobs = jobs.expect("there");
        assert_eq!(jobs.unknown(["limit", "status"].into_iter()), None);
        assert_eq!(jobs.unknown(["limit", "stauts"].into_iter()), Some("stauts"));
    }

    #[test]
    fn what_names_a_host_or_a_job_is_never_a_list() {
        for operation in operations() {
            let reach = match operation.access() {
                Access::Operator(_, reach) => reach,
                Access::Agent => Reach::Host,
                _ => continue,
            };
            if operation.path_parameters().next().is_some() {
                assert_eq!(reach, Reach::Host, "{} {}", operation.method, operation.path);
            }
        }
    }

    #[test]
    fn what_changes_something_needs_more_than_a_viewer() {
        for operation in operations() {
            if let Access::Operator(role, _) = operation.access() {
                assert!(role > Role::Viewer || operation.method == Method::GET, "{}", operation.path);
            }
        }
    }
}
