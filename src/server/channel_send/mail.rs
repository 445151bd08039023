//! Edge. Mails: one message, to all of the channel's recipients, on a connection of its own. Does not read secrets.

use std::path::Path;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use super::Opened;
use crate::file_error::{FileError, chain};
use crate::machine;
use crate::server::alert_sends::Message;
use crate::server::alert_text::{clean, text, title};
use crate::server::fleet::channels::{Channel, Smtp, SmtpTls};

/// Of each step of the dialogue.
const STEP: Duration = Duration::from_secs(20);

pub(super) async fn send(
    smtp: &Smtp,
    channel: &Channel,
    directory: &Path,
    message: &Message,
    public_url: Option<&str>,
    opened: &Opened,
) -> Result<String, String> {
    let mail = mail(smtp, message, public_url)?;
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .timeout(Some(STEP))
        .hello_name(hello_name())
        .tls(match smtp.tls {
            SmtpTls::None => Tls::None,
            SmtpTls::StartTls => Tls::Required(parameters(smtp, channel, directory)?),
            SmtpTls::Tls => Tls::Wrapper(parameters(smtp, channel, directory)?),
        });
    if let (Some(username), Some(password)) = (&smtp.username, &smtp.password) {
        let password = opened.reveal(channel, password).to_owned();
        builder = builder.credentials(Credentials::new(username.clone(), password));
    }
    let server = format!("{}:{}", smtp.host, smtp.port);
    let sent = builder.build::<Tokio1Executor>().send(mail).await;
    let response = sent.map_err(|error| format!("{server}: {error}{}", advice(&error, smtp)))?;
    let said = response.message().collect::<Vec<_>>().join(" ");
    Ok(format!("{server} answered {} {said}", response.code()))
}

fn advice(error: &lettre::transport::smtp::Error, smtp: &Smtp) -> String {
    // The crate calls a failed handshake a connection error.
    let text = chain(error);
    let code = error.status().map(|code| code.to_string());
    let advice = match code.as_deref() {
        Some("535" | "534" | "538") => "see whether username and password are right, and may send mail",
        Some("530") => "it wants a login: set username and password",
        Some("550" | "553" | "551" | "554") => "see whether it may send mail from this sender to these recipients",
        Some(code) if code.starts_with('4') => "it is tried again later",
        _ if text.contains("certificate") => "if it has an authority of your own, name that as ca_file",
        _ if error.is_tls() || text.contains("corrupt message") => "see whether tls and port fit together",
        _ if error.is_timeout() || code.is_none() && !error.is_response() && !error.is_client() => {
            "see whether host and port are right and firewalls let this server out to it"
        }
        _ if smtp.tls == SmtpTls::StartTls => "see whether it offers STARTTLS on this port: else write tls = \"tls\"",
        _ => return String::new(),
    };
    format!(" ({advice})")
}

/// The system's trust, and `ca_file`.
fn parameters(smtp: &Smtp, channel: &Channel, directory: &Path) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(smtp.host.clone());
    if let Some(path) = &channel.ca_file {
        let path = directory.join(path);
        let pem = std::fs::read(&path).map_err(|error| chain(&FileError::of("read", &path)(error)))?;
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| chain(&error))?);
    }
    builder.build_rustls().map_err(|error| chain(&error))
}

/// Its Message-ID is the message's id: a mail program shows one that comes twice once.
fn mail(smtp: &Smtp, message: &Message, public_url: Option<&str>) -> Result<lettre::Message, String> {
    let address = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("{text:?} is no mail address: {error}"));
    let from = address(&smtp.from)?;
    let id = format!("<{}@{}>", message.id, from.email.domain());
    let header =
        |name: &'static str, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
    let mut builder: MessageBuilder = lettre::Message::builder()
        .from(from)
        .subject(title(message))
        .message_id(Some(id))
        .date(SystemTime::from(crate::clock::now()))
        .header(ContentType::TEXT_PLAIN)
        .raw_header(header("Auto-Submitted", "auto-generated"))
        .raw_header(header("X-Restic-Manager-Id", &message.id));
    for to in &smtp.to {
        builder = builder.to(address(to)?);
    }
    builder.body(text(message, public_url)).map_err(|error| chain(&error))
}

/// What this machine is called, if that can be said in the dialogue.
fn hello_name() -> ClientId {
    let name = clean(&machine::hostname(), 100);
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if is_name { ClientId::Domain(name) } else { ClientId::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::alert::{Alert, AlertKind};
    use crate::server::alert_sends::Due;
    use crate::server::alert_told::Told;
    use crate::server::folded::{host, id, noon};

    #[test]
    fn no_text_of_an_agent_becomes_a_header_or_ends_the_mail() {
        let smtp = Smtp {
            host: "mail.example.org".to_owned(),
            port: 25,
            tls: SmtpTls::None,
            username: None,
            password: None,
            from: "Backups <backups@example.org>".to_owned(),
            to: vec!["ops@example.org".to_owned()],
        };
        let alert = Alert {
            id: id(1),
            kind: AlertKind::BackupFailed,
            schedule_id: None,
            job_id: None,
            text: "x\r\nBcc: all@example.org\r\n\r\n.\r\nMAIL FROM:<x>\u{202e}\u{1b}[2J".to_owned(),
            raised_at: noon(),
            acknowledged_by: None,
            told: std::collections::BTreeMap::new(),
        };
        let message = Message::new(Told::Raised, vec![Due { host: Some(host()), alert, ended_at: None }]);
        let mail = mail(&smtp, &message, None).expect("a mail");
        let formatted = String::from_utf8(mail.formatted()).expect("text");
        let (head, body) = formatted.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains("Message-ID: <00000000-0000-4000-8000-000000000001-raised@example.org>"), "{head}");
        assert!(head.contains("Subject: web-1: backup_failed") && !head.contains("Bcc"), "{head}");
        assert!(
            body.contains("x  Bcc: all@example.org") && !body.contains('\u{1b}') && !body.contains("\n.\r"),
            "{body}"
        );
        assert_eq!(mail.envelope().to().len(), 1);
    }
}
