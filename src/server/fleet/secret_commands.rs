//! Edge. Asks server.toml's `[secret_commands]` for secrets, a few at a time, and keeps the answers in memory: again when it is
//! told to, when the command or the repository changed, and once an hour. So an edit in a fleet of thousands starts no thousands of
//! programs. Never shows an answer: `secret_program` says what is told of a failure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::channels::Channel;
use super::maintenance::{copy_targets, targets};
use super::schedule_set::Credentials;
use super::{Fleet, Repository, SecretRef, SecretSource, for_host};
use crate::id::HostName;
use crate::protocol::command::Secret;
use crate::secret_program;

/// Commands at once.
const AT_ONCE: usize = 16;
/// An answer is asked for again when it is this old; after a failure sooner.
const GOOD_FOR: Duration = Duration::from_secs(3600);
const FAILED_FOR: Duration = Duration::from_secs(120);
/// How long new settings wait for answers; those that come later are taken in when they are there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked, and for which repository. Hosts for which both are the same share the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    argv: Vec<String>,
    url: String,
}

/// What to ask the command of this name for one host; `None`: there is no such command.
pub fn question(fleet: &Fleet, repository: &Repository, command: &str, whose: &HostName) -> Option<Question> {
    let argv = fleet.settings.secret_commands.get(command)?;
    Some(Question {
        argv: argv.iter().map(|argument| for_host(argument, whose)).collect(),
        url: for_host(&repository.url, whose),
    })
}

/// The same for a secret that the server uses itself, of one host or of none.
pub fn own_question(fleet: &Fleet, command: &str, whose: Option<&HostName>) -> Option<Question> {
    let argv = fleet.settings.secret_commands.get(command)?;
    let of_host = |argument: &String| whose.map_or_else(|| argument.clone(), |host| for_host(argument, host));
    Some(Question { argv: argv.iter().map(of_host).collect(), url: String::new() })
}

/// Everything that this configuration asks commands for, of the hosts that `counts` says yes to.
pub fn questions(fleet: &Fleet, counts: impl Fn(&HostName) -> bool) -> HashSet<Question> {
    let (mut questions, mut owned) = (HashSet::new(), HashSet::new());
    if fleet.settings.secret_commands.is_empty() {
        return questions;
    }
    let mut add = |repository: &Repository, credentials: Credentials<'_>, whose: &HostName| {
        for source in [credentials.password, credentials.credential].into_iter().flatten() {
            if let SecretRef::Command(name) = &source.secret {
                questions.extend(question(fleet, repository, name, whose));
            }
        }
    };
    let mut own = |source: &SecretSource, whose: Option<&HostName>| {
        if let SecretRef::Command(name) = &source.secret {
            owned.extend(own_question(fleet, name, whose));
        }
    };
    fleet.settings.channels.iter().flat_map(Channel::secrets).for_each(|source| own(source, None));
    for host in fleet.hosts.values().filter(|host| counts(&host.name)) {
        let pings = host.schedules.iter().filter_map(|held| held.ping_url.as_ref()?.source());
        pings.for_each(|source| own(source, Some(&host.name)));
        if let Some(repository) = host.repository.as_ref().and_then(|name| fleet.repositories.get(name)) {
            add(repository, Credentials::of_hosts(repository), &host.name);
        }
        for (_, repository) in copy_targets(fleet, host) {
            add(repository, Credentials::of_hosts(repository), &host.name);
        }
        for repository in fleet.maintained_by(&host.name) {
            for target in targets(fleet, repository) {
                add(repository, Credentials::of_maintenance(repository), target.host.as_ref().unwrap_or(&host.name));
            }
        }
    }
    questions.extend(owned);
    questions
}

/// What was asked and answered. No `Debug`: it holds secrets.
#[derive(Default)]
pub struct SecretCommands {
    memory: Mutex<Memory>,
    /// Counts answers.
    answered: watch::Sender<u64>,
    /// Counts the times at which all were answered after settings had been made without waiting for some of them.
    pub late: watch::Sender<u64>,
}

#[derive(Default)]
struct Memory {
    known: HashMap<Question, Known>,
    /// To be asked.
    queue: VecDeque<Question>,
    /// Tasks that ask.
    askers: usize,
    is_late: bool,
    /// The last wish to have everything asked anew.
    wish: u64,
    answers: u64,
}

#[derive(Default)]
struct Known {
    /// In the queue, or being asked.
    is_asked: bool,
    /// The last answer, when it came, and its number, by which a change is noticed.
    answer: Option<(Result<Secret, String>, Instant, u64)>,
}

impl Known {
    fn is_due(&self, now: Instant) -> bool {
        match &self.answer {
            None => true,
            Some((answer, at, _)) => now - *at > if answer.is_ok() { GOOD_FOR } else { FAILED_FOR },
        }
    }
}

impl SecretCommands {
    /// The secret, and the number of the answer. The error tells why there is none.
    pub fn answer(&self, question: &Question, command: &str) -> Result<(Secret, u64), String> {
        match self.memory().known.get(question).and_then(|known| known.answer.as_ref()) {
            Some((Ok(secret), _, number)) => Ok((secret.clone(), *number)),
            Some((Err(error), ..)) => Err(format!("the secret command {command:?} {error}")),
            None => Err(format!("the secret command {command:?} has not answered yet")),
        }
    }

    /// Changes whenever the answer may be another one.
    pub fn number(&self, question: &Question) -> Option<u64> {
        let memory = self.memory();
        memory.known.get(question)?.answer.as_ref().map(|(_, _, number)| *number)
    }

    /// Has asked what is due, and forgets what is no longer wanted. `wish`: everything is asked anew whenever this changes; of
    /// `doubted` what is asked for in any case.
    /// Waits a while for what there is no answer to yet; what comes later rings `late`.
    pub async fn ask(self: &Arc<Self>, questions: HashSet<Question>, doubted: &HashSet<Question>, wish: u64) {
        self.ask_patiently(questions, doubted, wish, PATIENCE).await;
    }

    async fn ask_patiently(
        self: &Arc<Self>,
        questions: HashSet<Question>,
        doubted: &HashSet<Question>,
        wish: u64,
        patience: Duration,
    ) {
        let mut answered = self.answered.subscribe();
        let mut waited_for = Vec::new();
        {
            let mut memory = self.memory();
            let all_anew = std::mem::replace(&mut memory.wish, wish) != wish;
            memory.known.retain(|question, _| questions.contains(question));
            memory.queue.retain(|question| questions.contains(question));
            let now = Instant::now();
            for question in questions {
                let anew = all_anew || doubted.contains(&question);
                let known = memory.known.entry(question.clone()).or_default();
                let must_wait = anew || known.answer.is_none();
                let is_new = (anew || known.is_due(now)) && !known.is_asked;
                known.is_asked |= is_new;
                let (is_asked, number) = (known.is_asked, known.answer.as_ref().map(|(_, _, number)| *number));
                if is_new {
                    memory.queue.push_back(question.clone());
                }
                if must_wait && is_asked {
                    waited_for.push((question, number));
                } else if is_new {
                    memory.is_late = true;
                }
            }
            let more = AT_ONCE.saturating_sub(memory.askers).min(memory.queue.len());
            memory.askers += more;
            for _ in 0..more {
                tokio::spawn(Arc::clone(self).run());
            }
        }
        let until = tokio::time::Instant::now() + patience;
        loop {
            waited_for.retain(|(question, number)| {
                let memory = self.memory();
                memory.known.get(question).is_some_and(|known| {
                    known.is_asked && known.answer.as_ref().map(|(_, _, number)| *number) == *number
                })
            });
            if waited_for.is_empty() {
                return;
            }
            // A moment more, so that many answers are one look.
            let looked = async {
                let _ = answered.changed().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            if tokio::time::timeout_at(until, looked).await.is_err() {
                self.memory().is_late = true;
                return;
            }
        }
    }

    /// Asks until nothing is left to ask.
    async fn run(self: Arc<Self>) {
        loop {
            let question = {
                let mut memory = self.memory();
                let Some(question) = memory.queue.pop_front() else {
                    memory.askers -= 1;
                    let is_late = memory.askers == 0 && std::mem::take(&mut memory.is_late);
                    drop(memory);
                    if is_late {
                        self.late.send_modify(|count| *count += 1);
                    }
                    return;
                };
                question
            };
            let answer = secret_program::ask(&question.argv).await;
            {
                let mut memory = self.memory();
                memory.answers += 1;
                let fresh = memory.answers;
                // Forgotten meanwhile: nobody wants it.
                if let Some(known) = memory.known.get_mut(&question) {
                    let number = match &known.answer {
                        Some((before, _, number)) if *before == answer => *number,
                        _ => fresh,
                    };
                    *known = Known { is_asked: false, answer: Some((answer, Instant::now(), number)) };
                }
            }
            self.answered.send_modify(|count| *count += 1);
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Question {
        Question { argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), url: String::new() }
    }

    #[tokio::test]
    async fn a_command_is_asked_once_until_somebody_wishes_it_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let count = directory.path().join("count");
        let question = shell(&format!("echo x >> '{0}'; wc -l < '{0}'", count.display()));
        let commands = Arc::new(SecretCommands::default());
        let mut asked = Vec::new();
        for wish in [0, 0, 0, 1, 1] {
            commands.ask([question.clone()].into(), &HashSet::new(), wish).await;
            asked.push(commands.answer(&question, "c").expect("an answer").0.reveal().to_owned());
        }
        assert_eq!(asked, ["1", "1", "1", "2", "2"]);
        commands.ask([question.clone()].into(), &[question.clone()].into(), 1).await;
        assert_eq!(commands.answer(&question, "c").expect("an answer").0.reveal(), "3", "doubted");
        commands.ask(HashSet::new(), &HashSet::new(), 1).await;
        assert!(commands.answer(&question, "c").expect_err("forgotten").contains("has not answered yet"));
    }

    #[tokio::test]
    async fn many_are_asked_a_few_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let dir = directory.path().display().to_string();
        let ask = |n: usize| shell(&format!("touch '{dir}/{n}'; ls '{dir}' | wc -l; rm '{dir}/{n}'"));
        let questions: Vec<Question> = (0..100).map(ask).collect();
        let commands = Arc::new(SecretCommands::default());
        commands.ask(questions.iter().cloned().collect(), &HashSet::new(), 0).await;
        for question in &questions {
            let (at_once, _) = commands.answer(question, "c").expect("an answer");
            assert!(at_once.reveal().trim().parse::<usize>().expect("a number") <= AT_ONCE);
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_holds_nothing_up_and_is_taken_in_later() {
        let commands = Arc::new(SecretCommands::default());
        let directory = tempfile::tempdir().expect("a directory");
        let go = directory.path().join("go");
        let question = shell(&format!("until [ -e '{}' ]; do sleep 0.01; done; echo s", go.display()));
        let mut late = commands.late.subscribe();
        commands.ask_patiently([question.clone()].into(), &HashSet::new(), 0, Duration::from_millis(50)).await;
        assert!(commands.answer(&question, "c").is_err(), "not yet");
        std::fs::write(&go, "").expect("written");
        late.changed().await.expect("rung");
        assert!(commands.answer(&question, "c").is_ok(), "now");
    }
}
