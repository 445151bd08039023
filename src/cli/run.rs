//! Edge. `restic-manager run`: runs a schedule or a kind of job on a host now.

use clap::Args;
use serde_json::{Value, json};

use super::api::{self, path, post_once, read};
use super::client::{CliFailure, ServerArguments};
use super::follow::unless_interrupted;
use super::follow_view::{self, Printed};
use super::job::{Job, waits};
use super::output::{Output, OutputArguments, remark};
use crate::http_client::HttpClient;
use crate::protocol::job_options::JobKind;

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The host
    host: String,
    /// One of its schedules by id, or a kind of job such as backup, check or init; a schedule of a kind's name goes first
    #[arg(value_name = "SCHEDULE|KIND")]
    what: String,
    /// The job's options, as the HTTP API has them, such as '{"read_data": true}'
    #[arg(long, value_name = "JSON")]
    options: Option<String>,
    /// How long it may wait for a host that is away, such as 2h [default: a backup waits a day, others are refused]
    #[arg(long, value_name = "SPAN")]
    queue_for: Option<String>,
    /// Follow it to its end; the exit code is then the job's: 0 done, 3 done with warnings, 1 failed or cancelled
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) async fn run(arguments: &RunArguments) -> Result<u8, CliFailure> {
    let options = arguments.options.as_deref().map(serde_json::from_str::<Value>).transpose();
    let options = options.map_err(|error| CliFailure::usage(format!("--options is not JSON: {error}")))?;
    let client = arguments.server.reach()?.client;
    let mut output = Output::new(arguments.output);
    let host = &arguments.host;
    let mut body = match arguments.what.parse::<JobKind>() {
        Ok(kind) if !schedules(&client, host).await?.contains(&arguments.what) => json!({"kind": kind}),
        _ => json!({"schedule_id": arguments.what}),
    };
    if let Some(options) = options {
        body["options"] = options;
    }
    if let Some(span) = &arguments.queue_for {
        body["queue_for"] = json!(span);
    }
    let made = begin(&client, &path(&["hosts", host, "jobs"]), &body, arguments.follow, &mut output).await;
    match made {
        // The host may lack the schedule, or be missing itself.
        Err(CliFailure { code: 5, text }) => match schedules(&client, host).await {
            Ok(known) if !known.is_empty() => {
                let kinds = JobKind::ALL.map(JobKind::as_str).join(", ");
                let text = format!("{text}; {host} has {}, and kinds of job are {kinds}", known.join(", "));
                Err(CliFailure { code: 5, text })
            }
            _ => Err(CliFailure { code: 5, text }),
        },
        made => made,
    }
}

/// Makes a job and shows it: to its end, or how to follow it.
pub(super) async fn begin(
    client: &HttpClient,
    path: &str,
    body: &Value,
    is_followed: bool,
    output: &mut Output,
) -> Result<u8, CliFailure> {
    let Some(made) = unless_interrupted(post_once(client, path, body)).await else {
        remark("interrupted before the server had answered: `restic-manager jobs HOST` shows whether the job was made");
        return Ok(130);
    };
    let value = made?;
    let job: Job = read(&value)?;
    if is_followed {
        return follow_view::show(client, &job.id, true, Printed::Job, output).await;
    }
    if output.json {
        output.json(&value)?;
    } else if job.is_final() {
        job.outcome().iter().try_for_each(|line| output.line(line))?;
    } else {
        let waiting = job.waiting_for.as_ref().map_or_else(String::new, |what| format!(", {}", waits(what)));
        output.line(&format!("job {}, {}: {}{waiting}", job.id, job.name(), job.status_words()))?;
        remark(&format!("`restic-manager log {} -f` follows it", job.id));
    }
    output.flush()?;
    Ok(if job.is_final() { job.exit_code() } else { 0 })
}

/// The ids of the host's schedules.
async fn schedules(client: &HttpClient, host: &str) -> Result<Vec<String>, CliFailure> {
    let view = api::get(client, &path(&["hosts", host, "schedules"])).await?;
    let list = view["schedules"].as_array().into_iter().flatten();
    Ok(list.filter_map(|schedule| schedule["id"].as_str().map(str::to_owned)).collect())
}
