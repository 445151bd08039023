//! What stands between: the real squid, tinyproxy, nginx and haproxy, as they are configured where people work. Each listens when
//! its function returns, and ends with its value.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::authority::{CA_FILE, PROXY_CA_WITH_KEY};
use crate::harness::{Fleet, Process, text};
use crate::space::{PROXY_ADDRESS, PROXY_NAME, PROXY_PORT, Place, SERVER_ADDRESS, SERVER_PORT, Space};

/// The login of the proxies that want one.
pub(crate) const USERNAME: &str = "agents";
pub(crate) const PASSWORD: &str = "open-sesame";
/// squid's file with that login.
const PASSWORDS: &str = "agents:$apr1$firewall$iKgVpky4XnajMzvmSsDBS0\n";
/// What squid needs to make certificates for those whom it speaks for.
pub(crate) const CERTIFICATES: &str = "/usr/lib/squid/security_file_certgen";
const BASIC: &str = "/usr/lib/squid/basic_ncsa_auth";

/// Who may go through squid, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everyone, to the server.
    Anyone,
    /// Those with the login.
    Login,
    /// Only to ports that the server has not.
    OtherPorts,
    /// Nobody, before they were at a page where they agree to something.
    Portal,
    /// Everyone; but a connection that is silent for so many seconds is cut.
    Cut(u32),
    /// Everyone; but squid looks into TLS, with certificates of its own making.
    LookInside,
}

/// squid at the edge, where it alone can be reached.
pub(crate) fn squid(space: &Space, fleet: &Fleet, rule: Rule) -> Process {
    let dir = directory(fleet, "squid");
    let path = |name: &str| text(&dir.join(name)).to_owned();
    let outside = |name: &str| text(&fleet.path(name)).to_owned();
    let mut port = format!("http_port {PROXY_ADDRESS}:{PROXY_PORT}");
    let mut lines = Vec::new();
    let mut allowed = "allow to_server";
    match rule {
        Rule::Anyone => {}
        Rule::Login => {
            fs::write(dir.join("passwords"), PASSWORDS).expect("written");
            lines.push(format!("auth_param basic program {BASIC} {}", path("passwords")));
            lines.push("acl known proxy_auth REQUIRED".to_owned());
            allowed = "allow to_server known";
        }
        Rule::OtherPorts => allowed = "deny all",
        Rule::Portal => {
            lines.push("acl agreed src 192.0.2.1".to_owned());
            lines.push("deny_info 302:http://portal.example/agree agreed".to_owned());
            allowed = "deny !agreed";
        }
        Rule::Cut(seconds) => lines.push(format!("read_timeout {seconds} seconds")),
        Rule::LookInside => {
            let authority = outside(PROXY_CA_WITH_KEY);
            port += &format!(" ssl-bump tls-cert={authority} generate-host-certificates=on");
            let made = dir.join("certificates");
            let _ = fs::remove_dir_all(&made);
            let output = space.output(Place::Edge, CERTIFICATES, &["-c", "-s", text(&made), "-M", "4MB"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            open_to_everyone(&made);
            lines.push(format!("sslcrtd_program {CERTIFICATES} -s {} -M 4MB", text(&made)));
            lines.push(format!("tls_outgoing_options cafile={}", outside(CA_FILE)));
            lines.push("acl hello at_step SslBump1\nssl_bump peek hello\nssl_bump bump all".to_owned());
            lines.push("acl inside url_regex ^https:\nhttp_access allow inside !CONNECT".to_owned());
        }
    }
    let configuration = format!(
        "{port}\n\
         visible_hostname {PROXY_NAME}\n\
         pid_filename none\n\
         max_filedescriptors 1024\n\
         cache deny all\n\
         access_log stdio:{}\n\
         cache_log {}\n\
         coredump_dir {}\n\
         acl to_server port {SERVER_PORT}\n\
         {}\n\
         http_access deny !CONNECT\n\
         http_access {allowed}\n\
         http_access deny all\n",
        path("access.log"),
        path("squid.log"),
        path(""),
        lines.join("\n"),
    );
    let file = dir.join("squid.conf");
    fs::write(&file, configuration).expect("written");
    let address = format!("{PROXY_ADDRESS}:{PROXY_PORT}");
    space.start_listening(Place::Edge, "squid", &["-N", "-f", text(&file)], &dir.join("output.log"), &address)
}

/// tinyproxy at the edge, in squid's place; it wants the login.
pub(crate) fn tinyproxy(space: &Space, fleet: &Fleet) -> Process {
    let dir = directory(fleet, "tinyproxy");
    let configuration = format!(
        "Listen {PROXY_ADDRESS}\nPort {PROXY_PORT}\nTimeout 600\nAllow 192.168.61.0/24\nConnectPort {SERVER_PORT}\n\
         BasicAuth {USERNAME} {PASSWORD}\nLogFile \"{}\"\n",
        text(&dir.join("tinyproxy.log"))
    );
    let file = dir.join("tinyproxy.conf");
    fs::write(&file, configuration).expect("written");
    let address = format!("{PROXY_ADDRESS}:{PROXY_PORT}");
    space.start_listening(Place::Edge, "tinyproxy", &["-d", "-c", text(&file)], &dir.join("output.log"), &address)
}

/// nginx in front of the server, which is at this address, with these lines for what it is asked for.
pub(crate) fn nginx(space: &Space, fleet: &Fleet, location: &str) -> Process {
    let dir = directory(fleet, "nginx");
    let (dir_text, tls) = (text(&dir), fleet.path("tls.pem"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {dir_text}/{name}; "))
        .concat();
    let configuration = format!(
        "daemon off; master_process off; user root; pid {dir_text}/pid; error_log {dir_text}/error.log;\n\
         events {{}}\n\
         http {{\n\
         access_log {dir_text}/access.log; {temporary}\n\
         server {{ listen {SERVER_ADDRESS}:{SERVER_PORT} ssl; ssl_certificate {0}; ssl_certificate_key {0};\n\
         location / {{ {location} }} }}\n\
         }}\n",
        text(&tls)
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration).expect("written");
    let arguments = ["-c", text(&file), "-e", "stderr"];
    let address = format!("{SERVER_ADDRESS}:{SERVER_PORT}");
    space.start_listening(Place::Server, "nginx", &arguments, &dir.join("output.log"), &address)
}

/// haproxy in front of the server, with these timeouts for silent clients and servers; as Debian ships it they are 50 s.
pub(crate) fn haproxy(space: &Space, fleet: &Fleet, seconds: u32) -> Process {
    let dir = directory(fleet, "haproxy");
    let configuration = format!(
        "global\n    maxconn 200\n\
         defaults\n    mode http\n    timeout connect 5s\n    timeout client {seconds}s\n    timeout server {seconds}s\n\
         frontend agents\n    bind {SERVER_ADDRESS}:{SERVER_PORT} ssl crt {}\n    default_backend restic_manager\n\
         backend restic_manager\n    server one {PLAIN}\n",
        text(&fleet.path("tls.pem"))
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, configuration).expect("written");
    let address = format!("{SERVER_ADDRESS}:{SERVER_PORT}");
    space.start_listening(Place::Server, "haproxy", &["-db", "-f", text(&file)], &dir.join("output.log"), &address)
}

/// Where the server listens behind a reverse proxy.
pub(crate) const PLAIN: &str = "127.0.0.1:8080";

/// A directory that programs may use that give up being root.
fn directory(fleet: &Fleet, name: &str) -> PathBuf {
    let dir = fleet.path(name);
    fs::create_dir_all(&dir).expect("a directory");
    fs::set_permissions(fleet.path(""), fs::Permissions::from_mode(0o711)).expect("its permissions");
    open_to_everyone(&dir);
    dir
}

fn open_to_everyone(path: &std::path::Path) {
    let metadata = fs::metadata(path).expect("it is there");
    fs::set_permissions(path, fs::Permissions::from_mode(if metadata.is_dir() { 0o777 } else { 0o666 })).expect("set");
    if metadata.is_dir() {
        fs::read_dir(path).expect("a directory").flatten().for_each(|entry| open_to_everyone(&entry.path()));
    }
}
