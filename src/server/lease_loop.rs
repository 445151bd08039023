//! Edge. Sees to it that jobs get their leases in their turn: looks at the hosts that somebody wants looked at, has wanted, taken,
//! ended and lapsed leases and the next grants written as one batch into each repository's journal, and then the dispatched and the
//! waiting jobs into their hosts' journals. Nothing is kept between two looks, so that a crash between any two steps is mended by
//! the next one. What fails is looked at again. Does not decide: `lease_decide` and `lease_grants` do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::app::{App, blocking, stopped};
use super::host::Host;
use super::host_content::HostContent;
use super::host_state::{HostState, is_unsaid};
use super::lease_decide::{
    AgentContact, LeaseNews, OUT_OF_CONTACT, Tenant, decide_leases, decide_news, decide_without_lease,
};
use super::lease_grants::{LeaseRules, grants, waits_for_each};
use super::leases::{LeaseFact, LeaseGranted, LeaseState};
use super::silence::silent_since;
use super::slot::{WriteError, line_time};
use crate::clock;
use crate::id::{HostName, JobId, RepositoryName};
use crate::job::Job;
use crate::journal::Head;

/// What could not be written, on a full disk for instance, is tried again this soon.
const RETRY: Duration = Duration::from_secs(2);
/// Journals written at once.
const AT_ONCE: usize = 16;

/// Runs until the server stops.
pub async fn run(app: Arc<App>) {
    let mut stopping = app.stopping.subscribe();
    // What a server before this one may have left half done.
    app.leases.attend_all();
    let mut failed: BTreeSet<HostName> = BTreeSet::new();
    let mut retry = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = app.leases.wanted.notified() => {}
            () = tokio::time::sleep_until(retry), if !failed.is_empty() => {}
        }
        let mut wanted = app.leases.take_attention();
        if Instant::now() >= retry {
            wanted.hosts.append(&mut failed);
        }
        let places = wanted.all.then(|| places_of_all(&app));
        if let Some(places) = &places {
            let with_jobs = app.hosts().into_iter().filter(|host| !host.slot.durable().state.jobs.is_empty());
            wanted.hosts.extend(with_jobs.map(|host| host.name.clone()).chain(places.keys().cloned()));
        }
        let before = failed.len();
        look(&app, wanted.hosts, places.as_ref(), &mut failed).await;
        if before == 0 && !failed.is_empty() {
            retry = Instant::now() + RETRY;
        }
    }
}

type Places = BTreeMap<HostName, BTreeSet<RepositoryName>>;

/// Where each host has leases.
fn places_of_all(app: &App) -> Places {
    let mut places = Places::new();
    for name in app.leases.repositories() {
        let Some(slot) = app.leases.known_slot(&name) else { continue };
        for host in slot.durable().state.hosts() {
            places.entry(host.clone()).or_default().insert(name.clone());
        }
    }
    places
}

/// A host as it was when it was looked at.
#[derive(Clone)]
struct Seen {
    name: HostName,
    /// `None`: the state directory does not have it any more.
    host: Option<Arc<Host>>,
    state: Arc<HostState>,
    head: Head,
    content: Option<Arc<HostContent>>,
    contact: AgentContact,
}

impl Seen {
    /// With what other servers wrote. `None`: it cannot be read at the moment.
    async fn of(app: &Arc<App>, name: HostName) -> Option<Self> {
        let host = app.current_host(&name).await;
        if host.is_none() && app.state_dir.host_dir(&name).join("journal").is_dir() {
            return None;
        }
        let durable = host.as_ref().map(|host| host.slot.durable());
        let (state, head) = durable.map_or_else(Default::default, |durable| (durable.state, durable.head));
        let content = host.as_ref().and_then(|host| host.content());
        let contact = contact_of(app, host.as_deref());
        Some(Self { name, host, state, head, content, contact })
    }

    fn with_tenant<R>(&self, rules: &BTreeMap<RepositoryName, LeaseRules>, ask: impl FnOnce(Tenant<'_>) -> R) -> R {
        let has_repository = |name: &RepositoryName| rules.contains_key(name);
        ask(Tenant {
            host: &self.name,
            state: &self.state,
            head_seq: if self.host.is_some() { self.head.seq } else { u64::MAX },
            content: self.content.as_deref(),
            has_repository: &has_repository,
            contact: self.contact,
        })
    }
}

fn contact_of(app: &App, host: Option<&Host>) -> AgentContact {
    let last_seen = host.and_then(Host::last_seen);
    AgentContact { last_seen, silent_since: silent_since(last_seen, app.outage), now: clock::now() }
}

/// What a job that is queued waits for, for people. `None`: for nothing.
pub fn waiting_for(app: &App, host: &Host, job: &Job) -> Option<String> {
    if !job.is_undispatched() {
        return None;
    }
    let lost = || contact_of(app, Some(host)).is_lost().then(|| OUT_OF_CONTACT.to_owned());
    app.leases.waits_for(job).or_else(lost).or_else(|| job.waiting_for.clone())
}

/// One look at these hosts; `all`: and at every repository, with what the hosts have there. Those for which it failed are added to
/// `failed`.
async fn look(app: &Arc<App>, names: BTreeSet<HostName>, all: Option<&Places>, failed: &mut BTreeSet<HostName>) {
    let rules = app.leases.rules();
    let mut by_repository: BTreeMap<RepositoryName, Vec<Seen>> = BTreeMap::new();
    if all.is_some() {
        by_repository.extend(app.leases.repositories().into_iter().map(|name| (name, Vec::new())));
    }
    for name in names {
        let Some(mut seen) = Seen::of(app, name.clone()).await else {
            failed.insert(name);
            continue;
        };
        let facts = seen.with_tenant(&rules, decide_without_lease);
        if let (Some(host), false) = (seen.host.clone(), facts.is_empty()) {
            let again = (seen.clone(), Arc::clone(&rules));
            let written = host.append(move |state, _| {
                let (seen, rules) = again;
                let seen = Seen { state: Arc::new(state.clone()), ..seen };
                seen.with_tenant(&rules, decide_without_lease)
            });
            if let Err(error) = written.await {
                not_written(&seen.name, &error);
                failed.insert(seen.name);
                continue;
            }
            let durable = host.slot.durable();
            (seen.state, seen.head) = (durable.state, durable.head);
        }
        let mut concerned: BTreeSet<RepositoryName> =
            seen.with_tenant(&rules, |tenant| tenant.repositories().collect());
        concerned.extend(all.and_then(|places| places.get(&seen.name)).into_iter().flatten().cloned());
        for repository in concerned {
            by_repository.entry(repository).or_default().push(seen.clone());
        }
    }
    let mut looks = JoinSet::new();
    for (repository, seen) in by_repository {
        if looks.len() >= AT_ONCE {
            take_failed(looks.join_next().await, failed);
        }
        let (app, rules) = (Arc::clone(app), rules.get(&repository).copied().unwrap_or_default());
        looks.spawn(async move { look_at_repository(&app, repository, rules, seen).await });
    }
    while let Some(done) = looks.join_next().await {
        take_failed(Some(done), failed);
    }
}

fn take_failed(done: Option<Result<BTreeSet<HostName>, tokio::task::JoinError>>, failed: &mut BTreeSet<HostName>) {
    // A panic has said itself; the next look at everything finds what is missing.
    if let Some(Ok(names)) = done {
        failed.extend(names);
    }
}

fn not_written(name: &HostName, error: &WriteError) {
    tracing::warn!(host = %name, %error, "its queued jobs wait until this can be written");
}

/// Returns the hosts for which it failed.
async fn look_at_repository(
    app: &Arc<App>,
    repository: RepositoryName,
    rules: LeaseRules,
    seen: Vec<Seen>,
) -> BTreeSet<HostName> {
    let names: BTreeSet<HostName> = seen.iter().map(|seen| seen.name.clone()).collect();
    let news = match update_leases(app, repository.clone(), rules, seen).await {
        Ok(news) => news,
        Err(error) => {
            tracing::warn!(%repository, %error, "jobs wait until the leases can be written");
            return names;
        }
    };
    // Those that may run come first, and nobody waits for the others.
    let (now, later): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, news)| !news.granted.is_empty());
    let teller = Arc::clone(app);
    if !later.is_empty() {
        tokio::spawn(async move {
            for name in tell(&teller, later).await {
                tokio::time::sleep(RETRY).await;
                teller.leases.attend(&name);
            }
        });
    }
    tell(app, now).await
}

type News = BTreeMap<HostName, LeaseNews>;

/// Has the repository's journal say what it should, with the next grants, and returns what the hosts are to be told.
async fn update_leases(
    app: &Arc<App>,
    repository: RepositoryName,
    rules: LeaseRules,
    seen: Vec<Seen>,
) -> Result<News, WriteError> {
    let configured = app.leases.rules();
    let slot = match app.leases.known_slot(&repository) {
        Some(slot) => slot,
        None if !configured.contains_key(&repository) => return Ok(News::new()),
        None => {
            let (opener, repository) = (Arc::clone(app), repository.clone());
            blocking(move || opener.leases.slot(&repository)).await.map_err(|error| WriteError::from(&error))?
        }
    };
    if slot.is_in_company() {
        slot.refresh().await;
    }
    let state = slot.durable().state;
    let facts_of = move |seen: &Seen, state: &LeaseState| {
        seen.with_tenant(&configured, |tenant| decide_leases(state, &repository, tenant))
    };
    let is_settled = grants(&state, rules).is_empty() && seen.iter().all(|seen| facts_of(seen, &state).is_empty());
    if is_settled {
        return Ok(news(&state, rules, &seen, &[]));
    }
    slot.write(move |batch| {
        let now = line_time();
        for seen in &seen {
            for fact in facts_of(seen, batch.state()) {
                batch.append(line_time(), &fact.to_new_line(now));
            }
        }
        let granted = grants(batch.state(), rules);
        for job_id in &granted {
            batch.append(line_time(), &LeaseFact::Granted(LeaseGranted { job_id: *job_id }).to_new_line(now));
        }
        news(batch.state(), rules, &seen, &granted)
    })
    .await
}

/// What the hosts that were looked at are to be told, and those that got a lease by that.
fn news(state: &LeaseState, rules: LeaseRules, seen: &[Seen], granted: &[JobId]) -> News {
    let mut news = News::new();
    for lease in granted.iter().filter_map(|job| state.of_job(*job)) {
        news.entry(lease.claim.host.clone()).or_default().granted.push(lease.claim.job_id);
    }
    let mut unsaid = BTreeSet::new();
    for seen in seen {
        for lease in state.of_host(&seen.name).filter(|lease| !granted.contains(&lease.claim.job_id)) {
            let id = lease.claim.job_id;
            let Some(job) = seen.state.jobs.get(&id).filter(|job| job.is_undispatched()) else { continue };
            if lease.granted_at.is_some() {
                news.entry(seen.name.clone()).or_default().granted.push(id);
            } else if is_unsaid(job) {
                unsaid.insert(id);
            }
        }
    }
    if !unsaid.is_empty() {
        for (lease, text) in waits_for_each(state, rules, |lease| unsaid.contains(&lease.claim.job_id)) {
            news.entry(lease.claim.host.clone()).or_default().waiting.push((lease.claim.job_id, text));
        }
    }
    news
}

/// Tells the hosts. Returns those for which it failed.
async fn tell(app: &Arc<App>, news: impl IntoIterator<Item = (HostName, LeaseNews)>) -> BTreeSet<HostName> {
    let mut failed = BTreeSet::new();
    let mut writers = JoinSet::new();
    for (name, news) in news {
        if writers.len() >= AT_ONCE {
            take_failed(writers.join_next().await, &mut failed);
        }
        let app = Arc::clone(app);
        writers.spawn(async move { tell_host(&app, name, news).await });
    }
    while let Some(done) = writers.join_next().await {
        take_failed(Some(done), &mut failed);
    }
    failed
}

async fn tell_host(app: &Arc<App>, name: HostName, news: LeaseNews) -> BTreeSet<HostName> {
    let Some(host) = app.current_host(&name).await else { return BTreeSet::new() };
    let granted = news.granted.clone();
    if let Err(error) = host.append(move |state, now| decide_news(state, &news, now)).await {
        not_written(&name, &error);
        return BTreeSet::from([name]);
    }
    // One that ended before it was dispatched gives its lease back.
    let state = host.slot.durable().state;
    let is_dispatched = |id| state.jobs.get(id).is_some_and(|job| !job.is_undispatched());
    if !granted.iter().all(is_dispatched) {
        app.leases.attend(&name);
    }
    BTreeSet::new()
}
