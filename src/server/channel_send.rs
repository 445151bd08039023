//! Edge. Sends one message on one channel, within its deadline, and tells what the other side said. An error is for people: which
//! hop, what was said, what to change, without the channel's secrets. Decides nothing, writes nothing down, and never tries twice.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use rustls::ClientConfig;

use super::alert_sends::Message;
use super::alert_text::clean;
use super::app::{App, Telling, blocking};
use super::fleet::channels::{Channel, Way};
use super::fleet::secret_text::SecretText;
use super::fleet::secrets::{SecretPlaces, read_own};
use super::fleet::{Fleet, SecretSource};
use crate::file_error::chain;
use crate::http_client::{HttpClient, Patience};
use crate::id::HostName;
use crate::mask::mask_secrets;
use crate::protocol::command::Secret;
use crate::proxy::ProxyRules;
use crate::tls;

mod hook;
mod mail;

/// Of one attempt, from its first byte to the end of the answer.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// What is read of an answer, in bytes.
const ANSWER_LIMIT: usize = 256 * 1024;
/// What is told of one, in characters.
const SAID_LIMIT: usize = 200;

/// A channel with its secrets, as they are now. No `Debug`: it holds them.
struct Opened {
    secrets: Vec<Secret>,
    tls: ClientConfig,
}

/// Sends it. `Ok`: what the other side said.
pub async fn send(app: &App, channel: &Channel, message: &Message) -> Result<String, String> {
    let telling = app.telling.borrow().clone();
    let sent = async {
        let (mine, commands) = (channel.clone(), Arc::clone(&app.secret_commands));
        let place = telling.clone();
        let read = move || {
            let places = SecretPlaces::of(&place.fleet, &place.directory, &commands);
            open(&place, &places, &mine)
        };
        let opened = blocking(read).await?;
        let public_url = telling.fleet.settings.public_url.as_deref();
        let said = match &channel.way {
            Way::Webhook(webhook) => hook::webhook(webhook, channel, message, public_url, &opened).await,
            Way::Ntfy(ntfy) => hook::ntfy(ntfy, channel, message, public_url, &opened).await,
            Way::Smtp(smtp) => mail::send(smtp, channel, &telling.directory, message, public_url, &opened).await,
        };
        let secrets: Vec<&str> = opened.secrets.iter().map(Secret::reveal).collect();
        let harmless = |text: String| clean(&mask_secrets(&text, &secrets), 2 * SAID_LIMIT);
        said.map(harmless).map_err(harmless)
    };
    let in_time = tokio::time::timeout(DEADLINE + Duration::from_secs(1), sent).await;
    in_time.unwrap_or_else(|_| Err(format!("nothing came to an end within {} s", DEADLINE.as_secs())))
}

/// In the order of `Channel::secrets`. Written addresses are secret too: they follow.
fn open(telling: &Telling, places: &SecretPlaces<'_>, channel: &Channel) -> Result<Opened, String> {
    let read = channel.secrets().into_iter().map(|source| read_own(&telling.fleet, places, source, None));
    let mut secrets = read.collect::<Result<Vec<Secret>, String>>()?;
    if let Way::Webhook(super::fleet::channels::Webhook { url, .. })
    | Way::Ntfy(super::fleet::channels::Ntfy { url, .. }) = &channel.way
        && let SecretText::Written(url) = url
    {
        secrets.push(Secret::new(url.clone()));
        secrets.extend(
            split_address(url).ok().map(|(_, path)| Secret::new(path.to_owned())).filter(|p| p.reveal() != "/"),
        );
    }
    let ca_file = channel.ca_file.as_ref().map(|path| telling.directory.join(path));
    let tls = tls::client_config(ca_file.as_deref(), false).map_err(|error| chain(&error))?;
    Ok(Opened { secrets, tls })
}

impl Opened {
    /// The secret of this place. They were all read.
    fn reveal<'a>(&'a self, channel: &Channel, source: &SecretSource) -> &'a str {
        let at = channel.secrets().into_iter().position(|known| known == source);
        at.and_then(|at| self.secrets.get(at)).map_or("", Secret::reveal)
    }

    fn text<'a>(&'a self, channel: &Channel, text: &'a SecretText) -> &'a str {
        match text {
            SecretText::Written(text) => text,
            SecretText::Secret(source) => self.reveal(channel, source),
        }
    }
}

/// What requests begin with, and the path with its query. The error does not repeat it.
fn split_address(url: &str) -> Result<(&str, &str), String> {
    super::fleet::secret_text::check_address(url).map_err(|what| format!("the url {what}"))?;
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    Ok(url.split_at(end))
}

/// A request, and what was answered if it was taken.
async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<(&str, Vec<u8>)>,
    tls: ClientConfig,
) -> Result<String, String> {
    let (origin, path) = split_address(url)?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let proxies = ProxyRules::from_environment(|name| std::env::var(name).ok())?;
    let client = HttpClient::to_other(origin, tls, proxies).map_err(|error| error.headline())?;
    let client = client.with_answer_limit(ANSWER_LIMIT);
    let answer = client.request(method, &path, headers, body, Patience::from(DEADLINE)).await;
    let answer = answer.map_err(|error| {
        let why = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {}", chain(source)));
        format!("{}{why}", error.headline())
    })?;
    let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(4 * SAID_LIMIT)]).into_owned();
    let said = format!("{origin} answered {} {}", answer.status, clean(&text, SAID_LIMIT));
    let advice = match answer.status {
        200..=299 => return Ok(said),
        300..=399 => "write the address that it redirects to as url",
        401 | 403 => "see whether the token or secret is right and may do this",
        404 | 405 | 410 => "see whether the url is complete",
        407 => "the proxy wants a login: write it into HTTPS_PROXY",
        429 | 500..=u16::MAX => "it is tried again later",
        _ => "it does not take what was sent",
    };
    Err(format!("{said} ({advice})"))
}

/// A ping of a schedule: GET of its address with what happened behind it.
pub async fn ping(app: &App, url: &SecretText, host: &HostName, suffix: &str) -> Result<(), String> {
    let telling = app.telling.borrow().clone();
    let (url, host, commands) = (url.clone(), host.clone(), Arc::clone(&app.secret_commands));
    let read = move || {
        let address =
            address_of(&telling.fleet, &SecretPlaces::of(&telling.fleet, &telling.directory, &commands), &url, &host)?;
        Ok::<_, String>((address, tls::client_config(None, false).map_err(|error| chain(&error))?))
    };
    let (address, tls) = blocking(read).await?;
    let (address, query) = address.reveal().split_once('?').map_or((address.reveal(), None), |(a, q)| (a, Some(q)));
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let whole = format!("{}{suffix}{query}", address.trim_end_matches('/'));
    let sent =
        tokio::time::timeout(DEADLINE, request(Method::POST, &whole, &[], Some(("text/plain", Vec::new())), tls)).await;
    let sent = sent.unwrap_or_else(|_| Err(format!("nothing came to an end within {} s", DEADLINE.as_secs())));
    let path = split_address(address).map_or("", |(_, path)| path);
    sent.map(|_| ()).map_err(|error| mask_secrets(&error, &[address, path]))
}

fn address_of(fleet: &Fleet, places: &SecretPlaces<'_>, url: &SecretText, host: &HostName) -> Result<Secret, String> {
    match url {
        SecretText::Written(text) => Ok(Secret::new(super::fleet::for_host(text, host))),
        SecretText::Secret(source) => read_own(fleet, places, source, Some(host)),
    }
}
