//! Edge. Tests of the client through a proxy, with real sockets: what a tunnel carries, and what each way in which a proxy fails is called. The
//! real squid and tinyproxy are in `tests/firewall`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::tests::over_tls::server_named;
use super::*;

const SOON: Duration = Duration::from_secs(20);
/// A name that only a proxy knows.
const NAME: &str = "backup.invalid";

/// A proxy that answers each CONNECT like this and then, where a port is given, connects to it.
async fn proxy(answer: &'static str, port: Option<u16>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let _ = stream.write_all(answer.as_bytes()).await;
                if let Some(port) = port {
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                }
            });
        }
    });
    address
}

async fn ask(proxy: &str, trusted: &std::path::Path) -> Result<bool, ClientError> {
    let tls = crate::tls::client_config(Some(trusted), true).expect("a config");
    let rules = ProxyRules::new(Proxy::parse(proxy, "[proxy] of agent.toml").expect("a proxy"), Vec::new());
    let client = HttpClient::new(&format!("https://{NAME}"), None, tls, rules).expect("a client");
    client.get_json("/x", SOON).await
}

#[tokio::test]
async fn a_server_that_only_the_proxy_knows_is_reached_through_it() {
    let (port, dir) = server_named(NAME).await;
    let proxy = proxy("HTTP/1.1 200 Connection established\r\n\r\n", Some(port)).await;
    assert!(ask(&proxy, &dir.path().join("cert.pem")).await.expect("an answer"));
}

#[tokio::test]
async fn each_way_in_which_a_proxy_fails_is_named_with_what_to_change() {
    let (_, dir) = server_named(NAME).await;
    let refused = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("an address").to_string();
    let login = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
    for (address, hop, headline, advice) in [
        (refused.clone(), Hop::Tcp, "cannot connect to the proxy http://127.0.0.1:", "mend its address in [proxy]"),
        (
            "no-such-host.invalid:1".into(),
            Hop::Name,
            "cannot find the address of the proxy",
            "the proxy's name in [proxy]",
        ),
        (proxy(login, None).await, Hop::Tunnel, "wants a login (407)", "give username and password in [proxy]"),
        (proxy("HTTP/1.1 403 No\r\n\r\n", None).await, Hop::Tunnel, "backup.invalid:443 (403)", "allow CONNECT"),
        (
            proxy("HTTP/1.1 502 No\r\n\r\n", None).await,
            Hop::Tunnel,
            "cannot reach backup.invalid:443 (502)",
            "server runs",
        ),
        (proxy("hello\r\n", None).await, Hop::Tunnel, "is not an HTTP proxy", "mend its address in [proxy]"),
        (proxy("", None).await, Hop::Tunnel, "ended before it was there", "HTTP proxy"),
        (proxy("HTTP/1.1 200 OK\r\n\r\n", None).await, Hop::Tls, "no TLS with https://backup.invalid through", "TLS"),
    ] {
        let error = ask(&address, &dir.path().join("cert.pem")).await.expect_err(headline);
        assert_eq!(error.hop(), hop, "{error:?}");
        assert!(error.headline().contains(headline), "{} lacks {headline}", error.headline());
        let given = error.advice().expect("what to change");
        assert!(given.contains(advice), "{given} lacks {advice}");
    }
}

#[tokio::test]
async fn a_proxy_that_looks_into_tls_is_named_by_its_ca() {
    let (port, _) = server_named(NAME).await;
    let (_, other) = server_named(NAME).await;
    let proxy = proxy("HTTP/1.1 200 OK\r\n\r\n", Some(port)).await;
    let error = ask(&proxy, &other.path().join("cert.pem")).await.expect_err("another CA");
    assert_eq!(error.hop(), Hop::Tls);
}
