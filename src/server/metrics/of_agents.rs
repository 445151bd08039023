//! Pure. The families of what agents say of themselves. Their words are values of labels here and nowhere else, one series of each
//! host.

use super::text::Kind::Gauge;
use super::{Family, Source};
use crate::protocol::agent_event::{Arch, Os};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "restic_manager_agent_info",
        help: "What the host's agent said of itself at its last start; always 1.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            let Some(hello) = &host.state.hello else { return };
            let os = match hello.os {
                Os::Linux => "linux",
                Os::Windows => "windows",
            };
            let arch = match hello.arch {
                Arch::Amd64 => "amd64",
                Arch::Arm64 => "arm64",
            };
            let restic = hello.restic_version.as_deref().unwrap_or_default();
            let version = hello.agent_version.as_str();
            samples.add(
                &[
                    ("host", host.name.as_str()),
                    ("version", version),
                    ("restic_version", restic),
                    ("os", os),
                    ("arch", arch),
                ],
                1_u64,
            );
        }),
    },
    Family {
        name: "restic_manager_agent_behind",
        help: "Whether the host's agent is older than the one that [agent_update] of server.toml names.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| {
            let version = host.state.hello.as_ref().map(|hello| hello.agent_version.as_str());
            let is_behind = version.and_then(|version| host.content.as_ref()?.is_behind(version));
            samples.add_known(&[("host", host.name.as_str())], is_behind.map(u64::from));
        }),
    },
    Family {
        name: "restic_manager_agent_spool_bytes",
        help: "Events and log lines that wait on the host for the server, as its agent said last.",
        kind: Gauge,
        source: Source::Host(|host, _, samples| samples.add_known(&[("host", host.name.as_str())], host.spool_bytes)),
    },
];
