//! Pure. The names and ids of everything, each a type that cannot hold a wrong value.
//! Does not make random ids: the edges do, and pass them in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not a name. `Display` says what the rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    what: &'static str,
    text: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, text } = self;
        let shown: String = text.chars().take(80).collect();
        write!(
            f,
            "{shown:?} is not a {what}: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    }
}

impl std::error::Error for InvalidName {}

/// The rule of state.md for whatever becomes part of a path: `[a-z0-9][a-z0-9._-]{0,62}`.
fn is_path_safe_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first_ok = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    first_ok && rest_ok && bytes.len() <= 63
}

/// Schedule ids may have parts joined by `:`, as `maintenance:main:prune` has.
fn is_schedule_id(text: &str) -> bool {
    text.len() <= 200 && text.split(':').all(is_path_safe_name)
}

/// Names are in many places at once: a copy is a reference.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $rule(text) { Ok(Self(text.into())) } else { Err(InvalidName { what: $what, text: text.to_owned() }) }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A managed machine, named as its file in `config/hosts` is.
    HostName,
    "host name",
    is_path_safe_name
);
name_type!(
    /// A group of hosts, named as its file in `config/groups` is.
    GroupName,
    "group name",
    is_path_safe_name
);
name_type!(
    /// A repository, named as its file in `config/repositories` is.
    RepositoryName,
    "repository name",
    is_path_safe_name
);
name_type!(
    /// A way on which alerts are told, named as in server.toml's `[alerts.channels.NAME]`.
    ChannelName,
    "channel name",
    is_path_safe_name
);
name_type!(
    /// A schedule's id, unique within its host.
    ScheduleId,
    "schedule id",
    is_schedule_id
);

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.as_hyphenated(), f)
            }
        }
    };
}

uuid_type!(
    /// One execution of restic, whoever asked for it.
    JobId
);
uuid_type!(
    /// One start of an agent.
    InstanceId
);
uuid_type!(
    /// One run of contiguous event sequence numbers of an agent.
    StreamId
);
uuid_type!(
    /// One state directory's life: made once, part of every cursor.
    Epoch
);
uuid_type!(
    /// One attempt of an agent to enroll, so that repeating it is harmless.
    EnrollmentId
);
uuid_type!(
    /// One alert, from when it is raised until it is resolved.
    AlertId
);
uuid_type!(
    /// One snapshots report, which may have several pages.
    ReportId
);

/// protocol.md "Objects": RFC 4122's URL namespace, the same in every epoch.
const FIRE_NAMESPACE: Uuid = Uuid::NAMESPACE_URL;

/// The id of the job that a schedule's due instant makes. The agent, the server and any second
/// server compute the same id, so a fire that is told twice is one job (protocol.md "Objects").
pub fn job_id_of_fire(host: &HostName, schedule_id: &ScheduleId, scheduled_at: DateTime<Utc>) -> JobId {
    let at = scheduled_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    JobId(Uuid::new_v5(&FIRE_NAMESPACE, format!("restic-manager:{host}/{schedule_id}@{at}").as_bytes()))
}

/// The id of the alert that this configuration was refused.
pub fn fleet_alert_id(hash: &str, raised_at: DateTime<Utc>) -> AlertId {
    let at = raised_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    AlertId(Uuid::new_v5(&FIRE_NAMESPACE, format!("restic-manager:alert:config/{hash}@{at}").as_bytes()))
}

/// The id of an alert: whichever server raises it for the same cause at the same instant names it alike.
pub fn alert_id(host: &HostName, what: &str, raised_at: DateTime<Utc>) -> AlertId {
    let at = raised_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    AlertId(Uuid::new_v5(&FIRE_NAMESPACE, format!("restic-manager:alert:{host}/{what}@{at}").as_bytes()))
}

/// The ids of the further jobs of a fire that makes several, `n` from 1; 0 is the fire's own.
pub fn job_id_of_fire_part(host: &HostName, schedule_id: &ScheduleId, scheduled_at: DateTime<Utc>, n: usize) -> JobId {
    if n == 0 {
        return job_id_of_fire(host, schedule_id, scheduled_at);
    }
    let at = scheduled_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    JobId(Uuid::new_v5(&FIRE_NAMESPACE, format!("restic-manager:{host}/{schedule_id}@{at}#{n}").as_bytes()))
}

/// The same of a request that makes several: `first` is the id that it was given.
pub fn job_id_of_request_part(first: JobId, n: usize) -> JobId {
    if n == 0 {
        first
    } else {
        JobId(Uuid::new_v5(&FIRE_NAMESPACE, format!("restic-manager:job/{first}#{n}").as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_that_makes_paths_safe() {
        for good in ["a", "web-1", "0.example_x", &"a".repeat(63)] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        for bad in ["", "Web", "..", "../x", "-a", ".a", "a/b", "a b", "a\n", "é", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn schedule_ids_may_have_parts_and_hosts_may_not() {
        assert!("maintenance:main:prune".parse::<ScheduleId>().is_ok());
        assert!("a::b".parse::<ScheduleId>().is_err());
        assert!("maintenance:main".parse::<HostName>().is_err());
    }

    #[test]
    fn the_job_id_of_a_fire_is_the_one_the_protocol_fixes() {
        let host = "web-1".parse().expect("a host name");
        let schedule = "system".parse().expect("a schedule id");
        let at = "2026-11-23T02:15:00.75Z".parse().expect("an instant");
        // python3 -c "import uuid; print(uuid.uuid5(uuid.NAMESPACE_URL, 'restic-manager:web-1/system@2026-11-23T02:15:00Z'))"
        assert_eq!(job_id_of_fire(&host, &schedule, at).to_string(), "98532442-440a-57eb-a9e9-ec3dcb8b1f9c");
        assert_eq!(job_id_of_fire_part(&host, &schedule, at, 0), job_id_of_fire(&host, &schedule, at));
        // The same with '...Z#2'.
        assert_eq!(job_id_of_fire_part(&host, &schedule, at, 2).to_string(), "49a66152-a6d7-59ae-a69d-e9cbd5e31411");
    }
}
