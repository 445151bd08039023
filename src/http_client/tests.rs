use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::file_error::chain;

const SOON: Duration = Duration::from_secs(10);

fn no_trust() -> rustls::ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("versions").with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

fn client_for(url: &str) -> HttpClient {
    let token = Secret::new("secret-token".into());
    HttpClient::new(url, Some(&token), no_trust(), ProxyRules::none()).expect("a client")
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.expect("read") == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// A client of a server that reads one head per connection, writes these pieces half a second apart, and then closes
/// (or, with `hang`, does nothing more).
async fn canned(pieces: &[&str], hang: bool) -> HttpClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            read_head(&mut stream).await;
            for (index, piece) in pieces.iter().enumerate() {
                if index > 0 {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                let _ = stream.write_all(piece.as_bytes()).await;
            }
            if hang {
                std::future::pending::<()>().await;
            }
        }
    });
    client_for(&url)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn get(response: &str) -> Result<Value, ClientError> {
    canned(&[response], false).await.get_json("/x", SOON).await
}

#[tokio::test]
async fn json_of_ours_is_parsed_also_after_keepalive_newlines() {
    let value = get(&answer("200 OK", "Content-Type: Application/JSON; charset=utf-8\r\n", "\n\n{\"a\":1}")).await;
    assert_eq!(value.expect("ours"), json!({"a": 1}));
}

#[tokio::test]
async fn a_problem_of_ours_comes_with_its_code_and_when_to_try_again() {
    let body =
        r#"{"type":"about:blank","title":"Gap","status":409,"detail":"seq 7 is next","code":"event-gap","expected":7}"#;
    let headers = "Content-Type: application/problem+json\r\nRetry-After: 12\r\n";
    let error = get(&answer("409 Conflict", headers, body)).await.expect_err("a problem");
    assert_eq!(error.to_string(), "seq 7 is next (409 event-gap)");
    assert_eq!((error.code(), error.retry_after()), (Some("event-gap"), Some(Duration::from_secs(12))));
}

#[tokio::test]
async fn whatever_does_not_prove_to_be_ours_is_an_intermediarys() {
    let problem = r#"{"type":"about:blank","title":"T","status":502,"detail":"d","code":"c"}"#;
    let of_problem = "Content-Type: application/problem+json\r\n";
    let cases = [
        ("200 OK", "Content-Type: text/html\r\n", "<html>\u{1b}log in", "it has no JSON"),
        ("200 OK", "", "{}", "it has no JSON"),
        ("204 No Content", "", "", "it has no JSON"),
        ("200 OK", "Content-Type: application/json\r\nAge: 3\r\n", "{}", "it comes from a cache"),
        ("200 OK", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "x", "it was re-encoded"),
        ("200 OK", "Content-Type: application/json\r\n", "{\"a\":", "its JSON is not ours: "),
        ("302 Found", "Location: /elsewhere\r\nContent-Type: application/json\r\n", "{}", "it is a redirect"),
        ("407 Proxy Authentication Required", of_problem, problem, "a proxy wants a login"),
        ("502 Bad Gateway", of_problem, problem, "a proxy cannot reach the server"),
        ("504 Gateway Timeout", "", "", "a proxy cannot reach the server"),
        ("503 Service Unavailable", "Content-Type: text/html\r\n", "busy", "it has no JSON"),
        ("500 Internal Server Error", of_problem, problem, "its problem is not one of ours"),
        ("401 Unauthorized", of_problem, "{\"title\":\"other\"}", "its problem is not one of ours"),
        ("404 Not Found", "Content-Type: application/json\r\n", "{}", "it has no JSON"),
    ];
    for (status, headers, body, expected) in cases {
        let error = get(&answer(status, headers, body)).await.expect_err(status);
        let ClientError::Intermediary { status: code, excerpt, why, .. } = &error else {
            unreachable!("{status}: {error:?}")
        };
        assert!(status.starts_with(&code.to_string()) && why.starts_with(expected), "{status}: {why}");
        assert!(!excerpt.contains('\u{1b}'));
        assert!(error.code().is_none());
    }
}

#[tokio::test]
async fn an_answer_too_large_is_not_read_to_its_end() {
    let client = canned(&[&answer("200 OK", "Content-Type: application/json\r\n", &" ".repeat(5000))], false).await;
    let error = client.with_answer_limit(4096).get_json::<Value>("/x", SOON).await.expect_err("too large");
    assert!(matches!(error, ClientError::TooLarge { limit: 4096 }), "{error:?}");
}

#[tokio::test]
async fn silence_and_a_slow_body_end_at_the_deadline() {
    let short = Duration::from_millis(300);
    let error = canned(&[], true).await.get_json::<Value>("/x", short).await.expect_err("silence");
    assert_eq!(error.to_string(), "no answer within 0.3 s");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[1,";
    let error = canned(&[head, "2]"], true).await.get_json::<Value>("/x", short).await.expect_err("half");
    assert_eq!(error.to_string(), "no end of the answer within 0.3 s");
}

#[tokio::test]
async fn broken_connections_say_how_far_it_came() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[1,";
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let refused = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let cases = [
        (canned(&[cut], false).await, Hop::Answer, "broke within its answer"),
        (canned(&[], false).await, Hop::Request, "broke before an answer"),
        (client_for(&refused), Hop::Tcp, "cannot connect to http://127.0.0.1:"),
        (client_for("https://no-such-host.invalid"), Hop::Name, "cannot find the address of https://no-such-host"),
    ];
    for (client, expected, text) in cases {
        let error = client.get_json::<Value>("/x", SOON).await.expect_err(text);
        assert!(chain(&error).contains(text), "{}", chain(&error));
        assert!(matches!(error, ClientError::Unreachable { hop, .. } if hop == expected), "{error:?}");
    }
}

#[tokio::test]
async fn the_request_is_what_the_server_expects_and_the_token_is_shown_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = client_for(&format!("http://{}/under/", listener.local_addr().expect("an address")));
    assert!(!format!("{client:?}").contains("secret-token"));
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let head = read_head(&mut stream).await;
        let mut body = [0; 7];
        stream.read_exact(&mut body).await.expect("the body");
        let response = answer("200 OK", "Content-Type: application/json\r\n", "null");
        stream.write_all(response.as_bytes()).await.expect("write");
        (head, String::from_utf8_lossy(&body).into_owned())
    });
    let _: Value = client.post_json("/v1/x?y=z", &json!({"a": 1}), SOON).await.expect("an answer");
    let (head, body) = server.await.expect("the server");
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /under/v1/x?y=z http/1.1\r\n"), "{head}");
    for line in ["authorization: bearer secret-token", "content-type: application/json", "content-length: 7"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    assert_eq!(body, r#"{"a":1}"#);
}

#[tokio::test]
async fn lines_come_as_they_are_made_and_blank_ones_are_left_out() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n{\"a\":1}\n\n{\"b\"";
    let client = canned(&[head, ":2}\nlast"], false).await;
    let mut lines = client.stream_lines("/log", &[], SOON, SOON).await.expect("lines");
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await {
        seen.push(line.expect("a line"));
    }
    assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}", "last"]);

    let client = canned(&[head], true).await;
    let mut lines = client.stream_lines("/log", &[], SOON, Duration::from_millis(200)).await.expect("lines");
    assert_eq!(lines.next_line().await.expect("one").expect("a line"), "{\"a\":1}");
    assert!(matches!(lines.next_line().await, Some(Err(ClientError::Timeout { .. }))));
    assert!(lines.next_line().await.is_none());

    let client = canned(&[&answer("200 OK", "Content-Type: text/html\r\n", "<html>")], false).await;
    let error = client.stream_lines("/log", &[], SOON, SOON).await.expect_err("no lines");
    assert!(matches!(error, ClientError::Intermediary { .. }), "{error:?}");
}

#[test]
fn a_base_url_is_https_or_loopback_and_holds_no_secret() {
    let check = |url: &str| checked_base_url(url).map_err(|problem| problem.to_owned());
    for (url, expected) in [
        ("https://backup.example.com", "https://backup.example.com"),
        ("https://backup.example.com:8443/rm/", "https://backup.example.com:8443/rm"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
    ] {
        assert_eq!(check(url).as_deref(), Ok(expected));
    }
    for url in [
        "http://backup.example.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "backup.example.com",
        "ftp://backup.example.com",
        "https://user:s3cret@backup.example.com",
        "https://backup.example.com/?token=s3cret",
        "",
    ] {
        let problem = check(url).expect_err(url);
        assert!(!problem.contains("s3cret"));
    }
}

#[cfg(feature = "server")]
pub(super) mod over_tls {
    use std::sync::Arc;

    use super::*;

    /// A TLS server for "localhost" with a certificate of its own; its URL and that certificate's directory.
    async fn server() -> (String, tempfile::TempDir) {
        let (port, dir) = server_named("localhost").await;
        (format!("https://localhost:{port}"), dir)
    }

    /// The same for any name; its port.
    pub(in super::super) async fn server_named(name: &str) -> (u16, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).expect("write");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("write");
        let config = crate::tls::server_config(&cert, &key, None).expect("a config");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    read_head(&mut stream).await;
                    let response = answer("200 OK", "Content-Type: application/json\r\n", "true");
                    stream.write_all(response.as_bytes()).await.expect("write");
                    let _ = stream.shutdown().await;
                }
            }
        });
        (port, dir)
    }

    async fn ask(url: &str, config: rustls::ClientConfig) -> Result<bool, ClientError> {
        HttpClient::new(url, None, config, ProxyRules::none()).expect("a client").get_json("/x", SOON).await
    }

    #[tokio::test]
    async fn a_ca_file_is_trusted_alone_and_beside_the_systems() {
        let (url, dir) = server().await;
        for only_that_ca in [false, true] {
            let config = crate::tls::client_config(Some(&dir.path().join("cert.pem")), only_that_ca).expect("a config");
            assert!(ask(&url, config).await.expect("an answer"));
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_trusted_is_named_with_what_to_do() {
        let (url, dir) = server().await;
        let (_, other) = server().await;
        let trust = |dir: &tempfile::TempDir| {
            crate::tls::client_config(Some(&dir.path().join("cert.pem")), true).expect("a config")
        };
        let error = ask(&url, trust(&other)).await.expect_err("another CA");
        assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
        let text = chain(&error);
        assert!(text.starts_with(&format!("no TLS with {url}: ")), "{text}");

        let error = ask(&url, no_trust()).await.expect_err("no CA");
        assert!(error.to_string().contains("its certificate comes from a CA that is not trusted here"), "{error}");

        let error = ask(&url.replace("localhost", "127.0.0.1"), trust(&dir)).await.expect_err("another name");
        assert!(error.to_string().contains("its certificate is for another name"), "{error}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_named_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("write");
            let _ = stream.read(&mut [0; 4096]).await;
        });
        let error = ask(&url, no_trust()).await.expect_err("no TLS");
        assert_eq!(error.headline(), format!("no TLS with {url}: what answers there does not speak TLS"));
        assert!(error.advice().expect("what to do").contains("port"));
    }
}
