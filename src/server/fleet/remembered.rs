//! Pure. What one load of a configuration leaves for the next: files as typed and hosts as put together, each with what it was
//! made of. The change of one file then costs that file and the hosts that it is part of. Does not parse or merge: `load` does,
//! and gets the same answer with nothing remembered.

use std::collections::HashMap;
use std::sync::Arc;

use super::effective::Effective;
use super::raw::RawHost;
use crate::id::HostName;
use crate::problem::Problem;

/// Of one load. A default one remembers nothing.
#[derive(Debug, Default)]
pub struct Remembered {
    /// By path.
    files: HashMap<String, TypedFile>,
    hosts: HashMap<HostName, PutTogether>,
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

impl Remembered {
    /// Whether `file` would need to read this one.
    pub(super) fn is_new(&self, path: &str, text: &Arc<str>) -> bool {
        !self.files.get(path).is_some_and(|known| known.is_of(text))
    }

    /// Takes a file in that was read elsewhere.
    pub(super) fn add(&mut self, path: &str, typed: TypedFile) {
        self.files.insert(path.to_owned(), typed);
    }

    /// The file as typed: as `before` or an `add` has it where the text is the same, else as `read` makes it.
    pub(super) fn file(
        &mut self,
        before: &Self,
        path: &str,
        text: &Arc<str>,
        read: impl FnOnce(&mut Vec<Problem>) -> RawHost,
    ) -> TypedFile {
        if let Some(added) = self.files.get(path).filter(|added| added.is_of(text)) {
            return added.clone();
        }
        let known = before.files.get(path).filter(|known| known.is_of(text));
        let typed = known.cloned().unwrap_or_else(|| TypedFile::read(text, read));
        self.files.insert(path.to_owned(), typed.clone());
        typed
    }

    /// The host of these files: as `before` has it where they are the same ones, else as `make` makes it.
    pub(super) fn host(
        &mut self,
        before: &Self,
        name: &HostName,
        layers: Vec<Arc<RawHost>>,
        make: impl FnOnce() -> Effective,
    ) -> Arc<Effective> {
        let is_same = |known: &&PutTogether| {
            known.layers.len() == layers.len() && known.layers.iter().zip(&layers).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let known = before.hosts.get(name).filter(is_same).map(|known| Arc::clone(&known.effective));
        let effective = known.unwrap_or_else(|| Arc::new(make()));
        self.hosts.insert(name.clone(), PutTogether { layers, effective: Arc::clone(&effective) });
        effective
    }
}
