//! Pure itself. `restic-manager monitoring`: prints what Prometheus and Grafana need beside the server's `GET /metrics`. Both files are
//! part of the program, so they name the metrics of its version; tests hold them against what the server tells.

use std::io::{self, Write};

use clap::Subcommand;

use crate::server::metrics::{DASHBOARD, RULES};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Monitoring {
    /// Print alert rules for Prometheus
    Rules,
    /// Print a dashboard for Grafana, to be imported
    Dashboard,
}

/// Prints the file. An error is one of printing.
pub fn run(which: Monitoring, out: &mut impl Write) -> io::Result<u8> {
    out.write_all(match which {
        Monitoring::Rules => RULES.as_bytes(),
        Monitoring::Dashboard => DASHBOARD.as_bytes(),
    })?;
    Ok(0)
}
