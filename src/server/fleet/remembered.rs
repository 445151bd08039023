//! Pure. What one load of a configuration leaves for the next: files as typed and hosts as put together, each with what it was
//! made of. The change of one file then costs that file and the hosts that it is part of. Does not parse or merge: `load` does,
//! and gets the same answer with nothing remembered.

use std::collections::HashMap;
use std::sync::Arc;

use super::effective::Effective;
use super::raw::RawHost;
use super::{Host, HostSchedule};
use crate::id::HostName;
use crate::problem::Problem;

/// From one load to the next. A default one remembers nothing.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Which load it is: what this one did not use is forgotten at its end.
    load: u64,
    /// By path, with the last load that used it.
    files: HashMap<String, (u64, TypedFile)>,
    hosts: HashMap<HostName, (u64, PutTogether)>,
    /// Hosts with the schedules of what they maintain.
    elected: HashMap<HostName, (u64, Elected)>,
}

/// A host's or group's file as typed, and what is wrong in it.
#[derive(Debug, Clone)]
pub(super) struct TypedFile {
    pub(super) text: Arc<str>,
    pub(super) raw: Arc<RawHost>,
    pub(super) problems: Arc<[Problem]>,
}

impl TypedFile {
    pub(super) fn read(text: &Arc<str>, read: impl FnOnce(&mut Vec<Problem>) -> RawHost) -> Self {
        let mut problems = Vec::new();
        let raw = Arc::new(read(&mut problems));
        Self { text: Arc::clone(text), raw, problems: problems.into() }
    }

    fn is_of(&self, text: &Arc<str>) -> bool {
        Arc::ptr_eq(&self.text, text) || self.text == *text
    }
}

#[derive(Debug)]
struct PutTogether {
    /// The groups' files in their order, then its own.
    layers: Vec<Arc<RawHost>>,
    effective: Arc<Effective>,
}

#[derive(Debug)]
struct Elected {
    /// Without them.
    base: Arc<Host>,
    maintenance: Vec<HostSchedule>,
    whole: Arc<Host>,
}

impl Remembered {
    /// Before a load.
    pub(super) fn begin(&mut self) {
        self.load += 1;
    }

    /// After it.
    pub(super) fn forget_unused(&mut self) {
        let load = self.load;
        self.files.retain(|_, (used, _)| *used == load);
        self.hosts.retain(|_, (used, _)| *used == load);
        self.elected.retain(|_, (used, _)| *used == load);
    }

    /// Whether `file` would need to read this one.
    pub(super) fn is_new(&self, path: &str, text: &Arc<str>) -> bool {
        !self.files.get(path).is_some_and(|(_, known)| known.is_of(text))
    }

    /// Takes a file in that was read elsewhere.
    pub(super) fn add(&mut self, path: &str, typed: TypedFile) {
        self.files.insert(path.to_owned(), (self.load, typed));
    }

    /// The file as typed: as it is known where the text is the same, else as `read` makes it.
    pub(super) fn file(
        &mut self,
        path: &str,
        text: &Arc<str>,
        read: impl FnOnce(&mut Vec<Problem>) -> RawHost,
    ) -> &TypedFile {
        if self.is_new(path, text) {
            self.add(path, TypedFile::read(text, read));
        }
        let (used, typed) =
            self.files.get_mut(path).unwrap_or_else(|| unreachable!("{path} was added where it was not known"));
        *used = self.load;
        typed
    }

    /// The host of these files: as it is known where they are the same ones, else as `make` makes it.
    pub(super) fn host(
        &mut self,
        name: &HostName,
        layers: &[&Arc<RawHost>],
        make: impl FnOnce() -> Effective,
    ) -> Arc<Effective> {
        let is_same = |known: &PutTogether| {
            known.layers.len() == layers.len() && known.layers.iter().zip(layers).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some((used, known)) = self.hosts.get_mut(name).filter(|(_, known)| is_same(known)) {
            *used = self.load;
            return Arc::clone(&known.effective);
        }
        let effective = Arc::new(make());
        let layers = layers.iter().map(|layer| Arc::clone(layer)).collect();
        self.hosts.insert(name.clone(), (self.load, PutTogether { layers, effective: Arc::clone(&effective) }));
        effective
    }

    /// The host with the schedules of what it maintains: the same as before where both are.
    pub(super) fn elected(&mut self, base: &Arc<Host>, maintenance: Vec<HostSchedule>) -> Arc<Host> {
        let is_same = |known: &Elected| Arc::ptr_eq(&known.base, base) && known.maintenance == maintenance;
        if let Some((used, known)) = self.elected.get_mut(&base.name).filter(|(_, known)| is_same(known)) {
            *used = self.load;
            return Arc::clone(&known.whole);
        }
        let mut whole = Host::clone(base);
        whole.schedules.extend(maintenance.iter().cloned());
        whole.schedules.sort_by(|a, b| a.schedule.id.cmp(&b.schedule.id));
        let whole = Arc::new(whole);
        let elected = Elected { base: Arc::clone(base), maintenance, whole: Arc::clone(&whole) };
        self.elected.insert(base.name.clone(), (self.load, elected));
        whole
    }
}
