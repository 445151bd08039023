//! Edge. Webhooks, signed, and ntfy's JSON. Does not read secrets or judge answers.

use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use serde_json::json;
use sha2::Sha256;

use super::{Opened, request};
use crate::clock;
use crate::server::alert::Severity;
use crate::server::alert_sends::Message;
use crate::server::alert_text::{json, link, severity, text, title};
use crate::server::alert_told::Told;
use crate::server::fleet::channels::{Channel, Ntfy, Webhook};
use crate::server::fleet::secret_text::SecretText;

/// POST of the message as JSON, with its id and, where there is a key, its signature.
pub(super) async fn webhook(
    webhook: &Webhook,
    channel: &Channel,
    message: &Message,
    public_url: Option<&str>,
    opened: &Opened,
) -> Result<String, String> {
    let now = clock::now();
    let timestamp = now.timestamp().to_string();
    // Text, numbers and times always have a JSON form.
    let body = serde_json::to_vec(&json(message, &channel.name, public_url, now)).unwrap_or_default();
    let signature = webhook.secret.as_ref().map(|source| sign(opened.reveal(channel, source), &timestamp, &body));
    let mut headers = vec![
        ("idempotency-key", message.id.as_str()),
        ("x-restic-manager-id", message.id.as_str()),
        ("x-restic-manager-timestamp", timestamp.as_str()),
    ];
    headers.extend(signature.as_deref().map(|signature| ("x-restic-manager-signature", signature)));
    headers.extend(webhook.headers.iter().map(|(name, value)| (name.as_str(), opened.text(channel, value))));
    let url = opened.text(channel, &webhook.url);
    request(Method::POST, url, &headers, Some(("application/json", body)), opened.tls.clone()).await
}

/// `sha256=` and the HMAC, in hex, of the timestamp, a point and the body.
fn sign(key: &str, timestamp: &str, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return String::new() };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes()))
}

/// To the root of the server, with the topic in it: headers could not hold every title.
pub(super) async fn ntfy(
    ntfy: &Ntfy,
    channel: &Channel,
    message: &Message,
    public_url: Option<&str>,
    opened: &Opened,
) -> Result<String, String> {
    let url = match &ntfy.url {
        SecretText::Written(text) => text.as_str(),
        SecretText::Secret(source) => opened.reveal(channel, source),
    };
    let (root, topic) =
        url.rsplit_once('/').filter(|(root, topic)| !root.ends_with('/') && !topic.is_empty()).unwrap_or(("", ""));
    if topic.is_empty() {
        return Err("the url has no topic at its end, as https://ntfy.sh/my-topic has".to_owned());
    }
    let (usual, tag) = match (message.what, severity(message)) {
        (Told::Resolved, _) => (2, "white_check_mark"),
        (Told::Test, _) => (3, "test_tube"),
        (_, Severity::Error) => (4, "rotating_light"),
        (_, Severity::Warning) => (3, "warning"),
    };
    let priority = ntfy.priority.filter(|_| message.what != Told::Resolved).unwrap_or(usual);
    let mut kinds: Vec<&str> = message.dues.iter().map(|due| due.alert.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let tags: Vec<&str> = [tag].into_iter().chain(kinds).take(5).collect();
    let mut body = json!({
        "topic": topic, "title": title(message), "message": text(message, public_url), "priority": priority, "tags": tags,
    });
    if let Some(url) = link(message, public_url) {
        body["click"] = url.into();
    }
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let authorization = ntfy.token.as_ref().map(|source| format!("Bearer {}", opened.reveal(channel, source)));
    let mut headers = vec![("x-restic-manager-id", message.id.as_str())];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    request(Method::POST, root, &headers, Some(("application/json", body)), opened.tls.clone()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_makes_of_the_same() {
        // printf '%s.%s' 1700000000 '{"a":1}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            sign("key", "1700000000", b"{\"a\":1}"),
            "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
        );
    }
}
