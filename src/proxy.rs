//! Pure. Which HTTP proxy a request goes through, if any: what administrators write in agent.toml, or have in the environment as
//! every other program on their machines reads it. Does not connect, and does not read the environment by itself.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use hyper::Uri;

use crate::ip_range::IpRange;
use crate::protocol::command::Secret;

const DEFAULT_PORT: u16 = 80;

/// A proxy that takes CONNECT. Shown without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// With brackets where it is an IPv6 address.
    host: String,
    port: u16,
    login: Option<Login>,
    /// Where it is written, for whoever has to change it: "[proxy] of agent.toml".
    origin: String,
}

/// For `Proxy-Authorization: Basic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

impl Proxy {
    /// From a URL such as `http://proxy.corp:3128`; the scheme may be left out. `origin`: where it is written. The error
    /// goes after the name of what was read, and repeats nothing: there may be a password in it.
    pub fn parse(url: &str, origin: &str) -> Result<Self, &'static str> {
        let url = url.trim();
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = with_scheme.parse().map_err(|_| "is not a proxy's URL such as http://proxy.corp:3128")?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("begins with https://: only proxies that are spoken to without TLS are supported");
            }
            Some(scheme) if scheme.starts_with("socks") => {
                return Err("is a SOCKS proxy: only HTTP proxies are supported");
            }
            _ => return Err("has to begin with http://"),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("must not have a path: write http://proxy.corp:3128");
        }
        let authority = uri.authority().ok_or("names no proxy")?;
        let login = match authority.as_str().rsplit_once('@') {
            None => None,
            Some((login, _)) => {
                let (username, password) = login.split_once(':').unwrap_or((login, ""));
                Some(Login { username: decoded(username)?, password: Secret::new(decoded(password)?) })
            }
        };
        if authority.host().is_empty() {
            return Err("names no proxy");
        }
        // The crate calls a port above 65535 absent.
        if authority.port_u16().is_none() && !authority.as_str().ends_with(authority.host()) {
            return Err("has a port that is none: 1 to 65535");
        }
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(DEFAULT_PORT));
        Ok(Self { host, port, login, origin: origin.to_owned() })
    }

    #[must_use]
    pub fn with_login(self, login: Login) -> Self {
        Self { login: Some(login), ..self }
    }

    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// Where it is written.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// host:port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The value of `Proxy-Authorization`: secret.
    pub fn authorization(&self) -> Option<Secret> {
        let login = self.login.as_ref()?;
        let pair = format!("{}:{}", login.username, login.password.reveal());
        Some(Secret::new(format!("Basic {}", BASE64.encode(pair.as_bytes()))))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.origin)
    }
}

/// Percent-encoding undone.
fn decoded(text: &str) -> Result<String, &'static str> {
    const INVALID: &str = "has a login that is not percent-encoded properly";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).ok_or(INVALID)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| INVALID)?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| INVALID)
}

/// A proxy, and what is reached without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyRules {
    proxy: Option<Proxy>,
    direct: Vec<DirectRule>,
}

impl ProxyRules {
    /// Everything directly.
    pub const fn none() -> Self {
        Self { proxy: None, direct: Vec::new() }
    }

    pub fn new(proxy: Proxy, direct: Vec<DirectRule>) -> Self {
        Self { proxy: Some(proxy), direct }
    }

    /// As the environment says: `HTTPS_PROXY`, then `ALL_PROXY`, with what `NO_PROXY` lists left out; each in capitals or not,
    /// and an empty one counts as absent. What cannot be understood in `NO_PROXY` is passed over, as other programs do.
    /// `variable` looks one up. The error names the variable.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let find = |names: &[&'static str]| {
            let found = names.iter().map(|name| (*name, variable(name).unwrap_or_default()));
            found.into_iter().find(|(_, text)| !text.trim().is_empty())
        };
        let Some((name, url)) = find(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) else {
            return Ok(Self::none());
        };
        let origin = format!("{name} in the environment");
        let proxy = Proxy::parse(&url, &origin).map_err(|problem| format!("{origin} {problem}"))?;
        let direct = find(&["NO_PROXY", "no_proxy"]).map_or(String::new(), |(_, text)| text);
        let entries = direct.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
        Ok(Self::new(proxy, entries.filter_map(|entry| DirectRule::parse(entry).ok()).collect()))
    }

    /// The proxy for this host, which may be in brackets. This machine itself is never asked through one.
    pub fn proxy_for(&self, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let host = normal(host);
        let is_direct = is_loopback(&host) || self.direct.iter().any(|rule| rule.matches(&host, port));
        (!is_direct).then_some(proxy)
    }
}

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectRule {
    what: Direct,
    /// Only this port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    /// Addresses written as such: names are not looked up for this, the proxy does that.
    Network(IpRange),
    /// The name itself and what is below it.
    Domain(String),
    /// Only what is below it.
    Below(String),
}

impl DirectRule {
    /// `*`, a name with all below it (`corp.example`), only what is below (`.corp.example`, `*.corp.example`), an address, a
    /// network; each but a network may have a port. The error goes after the entry.
    pub fn parse(entry: &str) -> Result<Self, &'static str> {
        const INVALID: &str = "is nothing to reach directly: write a name, \"*.example.org\", an address, \"10.0.0.0/8\", or one of them with \":port\"";
        let entry = entry.trim();
        if entry == "*" {
            return Ok(Self { what: Direct::All, port: None });
        }
        // An IPv6 address has colons of its own: without brackets, none of them begins a port.
        let bare: Result<IpRange, _> = entry.parse();
        if let Ok(network) = bare {
            return Ok(Self { what: Direct::Network(network), port: None });
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.ends_with(':') && (!name.contains(':') || name.ends_with(']')) => {
                (name, Some(port.parse::<u16>().map_err(|_| INVALID)?))
            }
            _ => (entry, None),
        };
        let name = normal(name);
        if let Ok(network) = name.parse() {
            return Ok(Self { what: Direct::Network(network), port });
        }
        let (below, only_below) = match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            Some(below) => (below.to_owned(), true),
            None => (name, false),
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') || b >= 0x80;
        if below.is_empty() || below.starts_with('.') || !below.bytes().all(is_name) {
            return Err(INVALID);
        }
        Ok(Self { what: if only_below { Direct::Below(below) } else { Direct::Domain(below) }, port })
    }

    /// `host` is normal.
    fn matches(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        // A piece of a name never fits an address.
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_below =
            |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
        match &self.what {
            Direct::All => true,
            Direct::Network(network) => host.parse().is_ok_and(|address: IpAddr| network.contains(address)),
            Direct::Domain(domain) => host == domain || (!is_address && is_below(domain)),
            Direct::Below(domain) => !is_address && is_below(domain),
        }
    }
}

/// Lower case, without brackets and the dot at the end.
fn normal(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether this names the machine itself. `host` may be in brackets.
pub fn is_loopback(host: &str) -> bool {
    let host = normal(host);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(no_proxy: &str) -> ProxyRules {
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://proxy.corp:3128".to_owned()),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        };
        ProxyRules::from_environment(variable).expect("fine")
    }

    #[test]
    fn what_no_proxy_lists_is_reached_directly_and_nothing_else() {
        for (no_proxy, host, port, direct) in [
            ("", "backup.example.org", 443, false),
            ("*", "backup.example.org", 443, true),
            ("example.org", "backup.example.org", 443, true),
            ("example.org", "example.org", 443, true),
            ("example.org", "notexample.org", 443, false),
            ("EXAMPLE.org", "Backup.Example.ORG.", 443, true),
            (".example.org", "backup.example.org", 443, true),
            (".example.org", "example.org", 443, false),
            ("*.example.org", "a.b.example.org", 443, true),
            ("*.example.org", "example.org", 443, false),
            ("*.corp", "backup.corp", 443, true),
            ("backup.corp:8443", "backup.corp", 8443, true),
            ("backup.corp:8443", "backup.corp", 443, false),
            ("*.corp:8443", "backup.corp", 8443, true),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "ten.example.org", 443, false),
            (".3", "10.1.2.3", 443, false),
            ("10.1.2.3:8443", "10.1.2.3", 8443, true),
            ("10.1.2.3:8443", "10.1.2.3", 443, false),
            ("fd00::/8", "[fd00::1]", 443, true),
            ("fd00::1", "[fd00::1]", 443, true),
            ("[fd00::1]", "[fd00::1]", 443, true),
            ("[fd00::1]:8443", "[fd00::1]", 8443, true),
            ("[fd00::1]:8443", "[fd00::1]", 443, false),
            ("a.corp, b.corp", "b.corp", 443, true),
            ("a.corp b.corp", "b.corp", 443, true),
            ("a.corp,,  ,b.corp", "b.corp", 443, true),
            ("%%%, b.corp", "b.corp", 443, true),
            ("%%%", "a.corp", 443, false),
            ("", "localhost", 443, true),
            ("", "sub.localhost", 443, true),
            ("", "127.0.0.1", 443, true),
            ("", "127.9.9.9", 443, true),
            ("", "[::1]", 443, true),
            ("", "[::ffff:127.0.0.1]", 443, true),
            ("", "127.0.0.1.example.org", 443, false),
        ] {
            let found = rules(no_proxy).proxy_for(host, port).is_none();
            assert_eq!(found, direct, "{no_proxy:?} {host}:{port}");
        }
    }

    #[test]
    fn the_environment_is_read_as_other_programs_read_it() {
        let found = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let rules = ProxyRules::from_environment(|name| {
                pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            });
            rules.map(|rules| rules.proxy_for("backup.example.org", 443).map(|proxy| format!("{proxy:?}")))
        };
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("HTTP_PROXY", "http://a:1")]), Ok(None), "our server is an https one");
        let named = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(found(&[("https_proxy", "b:2")]), named("http://b:2 (https_proxy in the environment)"));
        assert_eq!(
            found(&[("HTTPS_PROXY", ""), ("https_proxy", "http://b:2")]),
            named("http://b:2 (https_proxy in the environment)"),
            "an empty one in capitals does not hide the other"
        );
        assert_eq!(
            found(&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")]),
            named("http://a:1 (HTTPS_PROXY in the environment)")
        );
        assert_eq!(found(&[("ALL_PROXY", "http://c")]), named("http://c:80 (ALL_PROXY in the environment)"));
        assert_eq!(found(&[("HTTPS_PROXY", "http://a:1"), ("no_proxy", "example.org")]), Ok(None));
        let error = found(&[("ALL_PROXY", "socks5://u:s3cret@c:1")]).expect_err("SOCKS");
        assert!(error.starts_with("ALL_PROXY in the environment is a SOCKS proxy") && !error.contains("s3cret"));
    }

    #[test]
    fn a_login_is_decoded_and_never_shown() {
        let proxy = Proxy::parse("http://svc:p%40ss%3aw@proxy.corp:3128/", "somewhere").expect("a proxy");
        assert!(proxy.has_login());
        let value = proxy.authorization().expect("a login");
        assert_eq!(value.reveal(), format!("Basic {}", BASE64.encode(b"svc:p@ss:w")));
        for shown in [format!("{proxy}"), format!("{proxy:?}"), format!("{value:?}")] {
            assert!(!shown.contains("p%40ss") && !shown.contains("p@ss") && !shown.contains("Basic"), "{shown}");
        }
        assert_eq!(proxy.address(), "proxy.corp:3128");
        assert_eq!(Proxy::parse("http://[fd00::1]:3128", "").expect("a proxy").address(), "[fd00::1]:3128");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for url in [
            "",
            "https://u:s3cret@proxy:1",
            "socks5h://u:s3cret@proxy:1",
            "ftp://u:s3cret@proxy:1",
            "http://u:s3cret@proxy:1/path",
            "http://u:s3cret@proxy:1?x",
            "http://u:%zzs3cret@proxy:1",
            "http://u:s3cret@proxy:99999",
            "http://u:s3cret@",
            "http://:3128",
        ] {
            let problem = Proxy::parse(url, "").expect_err(url);
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        for entry in ["", ".", "*.", "a/b", "a:b", "a:99999", "http://a", "..a", "*.*.a"] {
            assert!(DirectRule::parse(entry).is_err(), "{entry}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_makes_it_fall_over(text in "\\PC{0,40}", host in "\\PC{0,20}", port in 0_u16..) {
            let _ = Proxy::parse(&text, "");
            let _ = ProxyRules::from_environment(|_| Some(text.clone())).map(|rules| rules.proxy_for(&host, port).is_some());
        }
    }
}
