//! The network of one row: the agent's namespace, the edge's (proxies, NAT), and the server's, in which the row itself runs. From
//! the agent's only the proxy's port can be reached, until a row opens more. Starts no programs by itself.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::{Process, eventually, text};

pub(crate) const PROXY_ADDRESS: &str = "192.168.61.1";
pub(crate) const PROXY_NAME: &str = "proxy.example";
pub(crate) const PROXY_PORT: u16 = 3128;
pub(crate) const SERVER_ADDRESS: &str = "192.168.62.2";
pub(crate) const SERVER_NAME: &str = "backup.example";
pub(crate) const SERVER_PORT: u16 = 8443;

/// A row's own place for files, in memory: it goes with the row.
pub(crate) const SCRATCH: &str = "/run/netns/.scratch";

/// Whose network a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Agent,
    Edge,
    Server,
}

/// Made once in the namespaces of a row, and taken down with them.
pub(crate) struct Space(());

impl Space {
    pub(crate) fn new() -> Self {
        // ip(8) keeps the names of namespaces here, and theirs are nobody else's business.
        fs::create_dir_all("/run/netns").expect("a directory");
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "names", "/run/netns"]);
        // squid keeps segments of shared memory by fixed names, and one that was killed leaves them to the next.
        run("mount", &["-t", "tmpfs", "memory", "/dev/shm"]);
        let scratch = Path::new(SCRATCH);
        fs::create_dir(scratch).expect("a directory");
        let hosts = format!("127.0.0.1 localhost\n{PROXY_ADDRESS} {PROXY_NAME}\n{SERVER_ADDRESS} {SERVER_NAME}\n");
        // No other name is known, and there is nobody to ask.
        let files =
            [("hosts", &*hosts), ("nsswitch.conf", "hosts: files dns\n"), ("resolv.conf", "nameserver 127.0.0.1\n")];
        for (name, content) in files {
            // It may be a link to nowhere, which says the same.
            let Ok(place) = fs::canonicalize(Path::new("/etc").join(name)) else { continue };
            let file = scratch.join(name);
            fs::write(&file, content).expect("written");
            run("mount", &["--bind", text(&file), text(&place)]);
        }
        for line in [
            "link set lo up",
            "netns add agent",
            "netns add edge",
            "-n agent link set lo up",
            "-n edge link set lo up",
            "-n agent link add out type veth peer name to-agent netns edge",
            "link add out type veth peer name to-server netns edge",
            "-n agent address add 192.168.61.2/24 dev out",
            "-n edge address add 192.168.61.1/24 dev to-agent",
            "-n edge address add 192.168.62.1/24 dev to-server",
            "address add 192.168.62.2/24 dev out",
            "-n agent link set out up",
            "-n edge link set to-agent up",
            "-n edge link set to-server up",
            "link set out up",
            "-n agent route add default via 192.168.61.1",
            "route add default via 192.168.62.1",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        let space = Self(());
        space.set(Place::Edge, "net/ipv4/ip_forward", "0");
        space.nft(
            Place::Agent,
            "table inet firewall {
                set open { type ipv4_addr . inet_service; elements = { 192.168.61.1 . 3128 } }
                chain out {
                    type filter hook output priority 0; policy accept
                    oif \"lo\" accept
                    ip daddr . tcp dport @open accept
                    reject with icmpx type admin-prohibited
                }
            }",
        );
        space
    }

    /// Lets the agent out to the server's port, past the proxy.
    pub(crate) fn open_the_direct_way(&self) {
        self.set(Place::Edge, "net/ipv4/ip_forward", "1");
        self.nft(Place::Agent, "add element inet firewall open { 192.168.62.2 . 8443 }");
    }

    /// The direct way, through a NAT that forgets a connection after so many silent seconds, and then drops what comes of it.
    pub(crate) fn open_a_forgetful_nat(&self, seconds: u32) {
        self.nft(
            Place::Edge,
            "table ip nat {
                chain out { type nat hook postrouting priority 100; oifname \"to-server\" masquerade; }
                chain forget { type filter hook forward priority 0; ct state invalid drop; }
                chain hear { type filter hook input priority 0; ct state invalid drop; }
            }",
        );
        self.set(Place::Edge, "net/netfilter/nf_conntrack_tcp_timeout_established", &seconds.to_string());
        self.set(Place::Edge, "net/netfilter/nf_conntrack_tcp_loose", "0");
        self.open_the_direct_way();
    }

    /// From now on the edge takes nothing for the proxy, and does not say so.
    pub(crate) fn swallow(&self) {
        self.nft(
            Place::Edge,
            "table inet hole {
                chain in { type filter hook input priority 0; tcp dport 3128 drop; }
            }",
        );
    }

    pub(crate) fn swallow_no_more(&self) {
        self.nft(Place::Edge, "delete table inet hole");
    }

    /// One more name for an address.
    pub(crate) fn name(&self, address: &str, name: &str) {
        // The file that is mounted there: its own bytes, not another file in its place.
        let mut hosts = fs::File::options().append(true).open("/etc/hosts").expect("the hosts");
        writeln!(hosts, "{address} {name}").expect("written");
    }

    pub(crate) fn command(&self, place: Place, program: &str) -> Command {
        let words = words_of(place, program);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, place: Place, program: &str, arguments: &[&str]) -> Output {
        self.command(place, program).args(arguments).output().expect(program)
    }

    /// A program that runs there until its value drops.
    pub(crate) fn start(
        &self,
        place: Place,
        program: &str,
        arguments: &[&str],
        log: &Path,
        environment: &[(&str, &str)],
    ) -> Process {
        let words = [words_of(place, program).as_slice(), arguments].concat();
        Process::start(words[0], &words[1..], log, environment)
    }

    /// The same for one that listens, once it does.
    pub(crate) fn start_listening(
        &self,
        place: Place,
        program: &str,
        arguments: &[&str],
        log: &Path,
        address: &str,
    ) -> Process {
        let mut process = self.start(place, program, arguments, log, &[]);
        eventually(&format!("{program} listens"), Duration::from_secs(30), || {
            assert!(process.is_running(), "{program} ended: {}", fs::read_to_string(log).unwrap_or_default());
            let asked = self.output(place, "curl", &["-s", "-m", "5", &format!("http://{address}/")]);
            // curl's word for a refused connection.
            (asked.status.code() != Some(7)).then_some(())
        });
        process
    }

    fn nft(&self, place: Place, rules: &str) {
        let mut nft = self.command(place, "nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().expect("it is piped").write_all(rules.as_bytes()).expect("written");
        let output = nft.wait_with_output().expect("nft ends");
        assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn set(&self, place: Place, setting: &str, value: &str) {
        let output = self.output(place, "sh", &["-c", "echo $1 > /proc/sys/$0", setting, value]);
        assert!(output.status.success(), "{setting}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn words_of(place: Place, program: &str) -> Vec<&str> {
    match place {
        Place::Agent => vec!["ip", "netns", "exec", "agent", program],
        Place::Edge => vec!["ip", "netns", "exec", "edge", program],
        Place::Server => vec![program],
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
