//! Edge. The files of the configuration that runs, as they were adopted, so that `restic-manager plan --from URL` can compare.
//! A viewer of the whole fleet may have them, so that a pipeline that plans needs no token that changes anything: secrets are
//! references in them, and a token's hash tells nothing about its 256 random bits.

use std::sync::Arc;

use serde_json::json;

use super::answer::{Answer, Problem, ok};
use super::request::Request;
use crate::server::access::Operator;
use crate::server::app::{App, blocking};
use crate::server::fleet::secret_text::with_keys_masked;
use crate::server::fleet_copy::read_adopted;

/// `GET /v1/config/files`.
pub async fn files(app: &Arc<App>, _: Request, _: Operator) -> Result<Answer, Problem> {
    if app.shared.servers.in_company() {
        app.fleet.refresh().await;
    }
    let state = app.fleet.durable().state;
    let dir = app.state_dir.fleet_dir();
    blocking(move || {
        let Some(copy) = read_adopted(&dir)? else {
            let detail = "no configuration was adopted yet: see GET /v1/config for what is wrong with the files";
            return Err(Problem::not_found("no-configuration", detail));
        };
        // Another server may have adopted a newer one at this moment.
        let adopted = state.adopted.as_ref().filter(|adopted| adopted.hash == copy.hash);
        let files: serde_json::Map<_, _> =
            copy.files.iter().map(|(path, text)| (path.clone(), shown(path, text).into())).collect();
        Ok(ok(&json!({
            "version": adopted.map(|_| state.version),
            "hash": copy.hash,
            "commit": adopted.and_then(|adopted| adopted.commit.as_ref()),
            "files": files,
        })))
    })
    .await
}

/// Addresses that are secret by themselves are hidden, as `plan` hides them.
fn shown(path: &str, text: &str) -> String {
    with_keys_masked(text, if path == "server.toml" { &["url"] } else { &["ping_url"] })
}
