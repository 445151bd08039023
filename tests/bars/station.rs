//! A server with posters on several hosts, started and ended as the bars need it: lied to, killed, on a mount. Ends with the
//! independent checker.

use std::time::Duration;

use std::path::PathBuf;

use crate::checker::check_history;
use crate::harness::{Fleet, Process, SERVER, eventually, text};
use crate::poster::{Poster, ask};

pub(crate) struct Station {
    pub(crate) fleet: Fleet,
    pub(crate) posters: Vec<Poster>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Station {
    /// The files of a fleet of `hosts` hosts. What the environment says holds for every start of the server.
    pub(crate) fn new(hosts: usize, environment: Vec<(&'static str, &'static str)>) -> Self {
        let fleet = Fleet::new();
        let web = fleet.read("config/hosts/web-1.toml");
        for number in 1..hosts {
            fleet.write(&format!("config/hosts/{}.toml", host(number)), &web);
        }
        std::fs::create_dir_all(fleet.path("state")).expect("a directory");
        private(&fleet.path("state"));
        Self { fleet, posters: Vec::new(), environment }
    }

    /// With its server, and every host's poster let in.
    pub(crate) fn started(hosts: usize, environment: Vec<(&'static str, &'static str)>) -> Self {
        let mut station = Self::new(hosts, environment);
        station.start();
        station.enroll(hosts);
        station
    }

    pub(crate) fn enroll(&mut self, hosts: usize) {
        let (port, token) = (self.fleet.port, self.fleet.token());
        self.posters = (0..hosts).map(|number| Poster::enroll(port, &token, &host(number))).collect();
    }

    /// Has every poster post lines of a job's log too.
    pub(crate) fn with_logs(mut self) -> Self {
        self.posters.iter_mut().for_each(|poster| poster.with_log = true);
        self
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.fleet.path("state")
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let fleet = &mut self.fleet;
        private(&fleet.path("state"));
        let (config, state) = (fleet.path("config"), fleet.path("state"));
        let listen = format!("127.0.0.1:{}", fleet.port);
        let arguments = ["serve", "--config", text(&config), "--state", text(&state), "--listen", &listen];
        let mut environment = vec![("RUST_LOG", "info")];
        environment.extend(&self.environment);
        let mut server = Process::start(SERVER, &arguments, &fleet.path("server.log"), &environment);
        let port = fleet.port;
        eventually("the server is ready", Duration::from_secs(20), || {
            assert!(server.is_running(), "the server ended: {}", fleet.read("server.log"));
            ask(port, "GET", "/readyz", "", "").ok().filter(|reply| reply.status == 200)
        });
        fleet.server = Some(server);
    }

    pub(crate) fn kill(&mut self) {
        self.fleet.server = None;
    }

    pub(crate) fn acked(&self) -> Vec<u64> {
        self.posters.iter().map(Poster::acked).collect()
    }

    /// What is not there, once and as it was sent, of what was acknowledged; `acked` are counts by poster.
    pub(crate) fn missing(&self, acked: &[u64]) -> Vec<String> {
        let state = self.state();
        self.posters.iter().zip(acked).flat_map(|(poster, count)| poster.missing(&state, *count)).collect()
    }

    /// Lets every job end, kills the server, and has all of it checked. Gives how many lines there are.
    pub(crate) fn checked_end(&mut self, bar: &str) -> usize {
        for poster in &mut self.posters {
            poster.end_the_job();
        }
        self.kill();
        let findings: Vec<&String> = self.posters.iter().flat_map(|poster| &poster.findings).collect();
        assert!(findings.is_empty(), "{bar}: {findings:#?}");
        let missing = self.missing(&self.acked());
        assert!(missing.is_empty(), "{bar}: {missing:#?}");
        let histories = self
            .posters
            .iter()
            .map(|poster| check_history(&self.state().join("hosts").join(&poster.host).join("journal")));
        histories.map(|history| history.lines).sum()
    }
}

fn host(number: usize) -> String {
    format!("web-{}", number + 1)
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("its permissions");
}
