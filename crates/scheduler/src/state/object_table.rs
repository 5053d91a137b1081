//! Every object: where it is, who refers to it, and how to make it again.
//!
//! An object is in memory, on disk, or still to be made. In memory it is *held* while running work or a caller uses it, and
//! *idle* otherwise; the idle ones are written to disk, the longest unused first, when memory is wanted for something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use cenote_base::Error;
use tokio::sync::oneshot;

use crate::objects::spill::SpillFile;
use crate::objects::value::Value;
use crate::state::arena::{Arena, Key};
use crate::state::ledger::Memory;
use crate::state::task::Recipe;

/// Generations of objects that can be made again one from the other. Past it an object is as if it had been `put`, so that
/// a loop that feeds its result to itself does not remember all its rounds.
const LINEAGE_MAX: u32 = 100;

#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) state: State,
    pub(crate) bytes: u64,
    /// [`ObjectRef`](crate::ObjectRef)s and unfinished tasks that take it.
    pub(crate) users: u32,
    /// Objects that could be made again from it.
    descendants: u32,
    /// Running tasks and callers that have it in their hands.
    pub(crate) pins: u32,
    stamp: u64,
    pub(crate) recipe: Option<Arc<Recipe>>,
    generation: u32,
    /// What is on disk of it, also while it is in memory again.
    file: Option<Arc<SpillFile>>,
    pub(crate) dependents: Vec<Key>,
    pub(crate) waiters: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Its task has not ended.
    Pending,
    InMemory(Value),
    /// On its way to disk; counts as being there.
    Spilling(Value),
    OnDisk,
    /// On its way back, and counted as held.
    Restoring,
    /// Nobody refers to it, but something made from it may have to be made again.
    Dropped,
    Failed(Error),
}

/// What [`Objects::pin`] found.
#[derive(Debug)]
pub(crate) enum Found {
    Value(Value),
    /// To be read back, then handed to [`Objects::restored`].
    File(Arc<SpillFile>),
}

/// Memory that was given up: written out by whoever caused it, then handed to [`Objects::spilled`].
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) object: Key,
    pub(crate) value: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) arena: Arena<Object>,
    /// Idle objects in memory, the longest unused first.
    idle: BTreeMap<u64, Key>,
    stamps: u64,
    /// What is to be dropped once the lock is released: it may be large.
    pub(crate) garbage: Vec<Garbage>,
}

/// Large values, files, and what callers wrote: none of them may be dropped under the lock.
#[derive(Debug)]
pub(crate) enum Garbage {
    Value { _value: Value },
    Recipe { _recipe: Arc<Recipe> },
    File { _file: Arc<SpillFile> },
}

impl From<Value> for Garbage {
    fn from(value: Value) -> Self {
        Self::Value { _value: value }
    }
}

impl From<Arc<Recipe>> for Garbage {
    fn from(recipe: Arc<Recipe>) -> Self {
        Self::Recipe { _recipe: recipe }
    }
}

impl From<Arc<SpillFile>> for Garbage {
    fn from(file: Arc<SpillFile>) -> Self {
        Self::File { _file: file }
    }
}

impl Object {
    #[cfg(test)]
    pub(crate) fn has_descendants(&self) -> bool {
        self.descendants > 0
    }
}

impl Objects {
    /// A new object with one user, to be made by `recipe` if it has one.
    pub(crate) fn create(&mut self, recipe: Option<Arc<Recipe>>) -> Key {
        let ancestors = || recipe.iter().flat_map(|recipe| &recipe.inputs);
        let oldest = ancestors().filter_map(|input| self.arena.get(*input)).map(|input| input.generation).max();
        let generation = oldest.map_or(0, |oldest| oldest + 1);
        let (recipe, generation) = if generation > LINEAGE_MAX {
            self.garbage.extend(recipe.map(Garbage::from));
            (None, 0)
        } else {
            (recipe, generation)
        };
        for input in recipe.iter().flat_map(|recipe| &recipe.inputs) {
            if let Some(input) = self.arena.get_mut(*input) {
                input.descendants += 1;
            }
        }
        self.arena.insert(Object {
            state: State::Pending,
            bytes: 0,
            users: 1,
            descendants: 0,
            pins: 0,
            stamp: 0,
            recipe,
            generation,
            file: None,
            dependents: Vec::new(),
            waiters: Vec::new(),
        })
    }

    pub(crate) fn is_in_memory(&self, key: Key) -> bool {
        self.arena.get(key).is_some_and(|object| matches!(object.state, State::InMemory(_)))
    }

    /// Memory that pinning `key` adds to what is held; `None` while it cannot be pinned.
    pub(crate) fn pin_bytes(&self, key: Key) -> Option<u64> {
        let object = self.arena.get(key)?;
        match object.state {
            State::InMemory(_) | State::Spilling(_) | State::OnDisk if object.pins == 0 => Some(object.bytes),
            State::InMemory(_) => Some(0),
            _ => None,
        }
    }

    /// Holds an object that can be pinned.
    pub(crate) fn pin(&mut self, key: Key, memory: &mut Memory) -> Option<Found> {
        let object = self.arena.get_mut(key)?;
        object.pins += 1;
        if object.pins == 1 {
            memory.held += object.bytes;
        }
        match std::mem::replace(&mut object.state, State::Restoring) {
            State::InMemory(value) => {
                if object.pins == 1 && self.idle.remove(&object.stamp).is_some() {
                    memory.idle -= object.bytes;
                }
                object.state = State::InMemory(value.clone());
                Some(Found::Value(value))
            }
            State::Spilling(value) => {
                object.state = State::InMemory(value.clone());
                Some(Found::Value(value))
            }
            State::OnDisk => object.file.clone().map(Found::File),
            other => {
                // Callers ask `pin_bytes` first, so this does not come about.
                object.state = other;
                object.pins -= 1;
                if object.pins == 0 {
                    memory.held -= object.bytes;
                }
                None
            }
        }
    }

    pub(crate) fn unpin(&mut self, key: Key, memory: &mut Memory) {
        let Some(object) = self.arena.get_mut(key) else { return };
        object.pins -= 1;
        if object.pins > 0 {
            return;
        }
        memory.held -= object.bytes;
        if matches!(object.state, State::InMemory(_)) {
            self.rest(key, memory);
        }
        self.drop_if_unused(key, memory);
    }

    /// Puts an object in memory among the idle ones.
    fn rest(&mut self, key: Key, memory: &mut Memory) {
        if let Some(object) = self.arena.get_mut(key) {
            self.stamps += 1;
            object.stamp = self.stamps;
            memory.idle += object.bytes;
            self.idle.insert(self.stamps, key);
        }
    }

    /// Puts a finished value into memory, idle. The caller then makes room with [`shrink`](Self::shrink).
    pub(crate) fn admit(&mut self, key: Key, value: Value, memory: &mut Memory) {
        let Some(object) = self.arena.get_mut(key) else { return self.garbage.push(value.into()) };
        object.bytes = value.size_bytes();
        object.state = State::InMemory(value);
        self.rest(key, memory);
        self.drop_if_unused(key, memory);
    }

    /// Gives up idle memory until everything fits, the longest unused first.
    pub(crate) fn shrink(&mut self, memory: &mut Memory) -> Vec<Victim> {
        let mut victims = Vec::new();
        while memory.held + memory.idle > memory.total {
            let Some((_, key)) = self.idle.pop_first() else { break };
            let Some(object) = self.arena.get_mut(key) else { continue };
            memory.idle -= object.bytes;
            match std::mem::replace(&mut object.state, State::OnDisk) {
                State::InMemory(value) if object.file.is_some() => self.garbage.push(value.into()),
                State::InMemory(value) => {
                    object.state = State::Spilling(value.clone());
                    victims.push(Victim { object: key, value });
                }
                other => object.state = other,
            }
        }
        victims
    }

    /// A victim is on disk.
    pub(crate) fn spilled(&mut self, key: Key, file: Arc<SpillFile>) {
        let Some(object) = self.arena.get_mut(key) else { return self.garbage.push(file.into()) };
        // Meanwhile it may have been taken back into memory, where the file saves writing it again, or dropped.
        match std::mem::replace(&mut object.state, State::OnDisk) {
            State::Spilling(value) => self.garbage.push(value.into()),
            State::InMemory(value) => object.state = State::InMemory(value),
            other => {
                object.state = other;
                return self.garbage.push(file.into());
            }
        }
        object.file = Some(file);
    }

    /// A victim could not be written: it is in memory still, whatever the budget says.
    pub(crate) fn kept(&mut self, key: Key, memory: &mut Memory) {
        let Some(object) = self.arena.get_mut(key) else { return };
        match std::mem::replace(&mut object.state, State::Pending) {
            State::Spilling(value) => {
                object.state = State::InMemory(value);
                self.rest(key, memory);
            }
            other => object.state = other,
        }
    }

    /// What was on disk is in memory again, pinned.
    pub(crate) fn restored(&mut self, key: Key, value: Value) {
        if let Some(object) = self.arena.get_mut(key) {
            object.state = State::InMemory(value);
        }
    }

    /// What was on disk was not read after all, though it is pinned.
    pub(crate) fn unread(&mut self, key: Key) {
        if let Some(object) = self.arena.get_mut(key) {
            object.state = State::OnDisk;
        }
    }

    /// What was on disk cannot be read: it is to be made again, or has failed for good.
    pub(crate) fn lost(&mut self, key: Key, error: &Error, memory: &mut Memory) {
        let Some(object) = self.arena.get_mut(key) else { return };
        object.pins -= 1;
        memory.held -= object.bytes;
        self.garbage.extend(object.file.take().map(Garbage::from));
        object.state = match object.recipe {
            Some(_) => State::Dropped,
            None => State::Failed(error.clone().context("an object was lost, and nothing is known to make it again")),
        };
    }

    pub(crate) fn retain(&mut self, key: Key) {
        if let Some(object) = self.arena.get_mut(key) {
            object.users += 1;
        }
    }

    pub(crate) fn release(&mut self, key: Key, memory: &mut Memory) {
        if let Some(object) = self.arena.get_mut(key) {
            object.users -= 1;
            self.drop_if_unused(key, memory);
        }
    }

    /// What the object's task made cannot be had.
    pub(crate) fn fail(&mut self, key: Key, error: &Error, memory: &mut Memory) {
        if let Some(object) = self.arena.get_mut(key) {
            object.state = State::Failed(error.clone());
            self.drop_if_unused(key, memory);
        }
    }

    /// Drops the value of an object that nobody uses, and its record once nothing could need it to be made again.
    fn drop_if_unused(&mut self, key: Key, memory: &mut Memory) {
        let mut unused = vec![key];
        while let Some(key) = unused.pop() {
            let Some(object) = self.arena.get_mut(key) else { continue };
            if object.users > 0 || object.pins > 0 || matches!(object.state, State::Pending) {
                continue;
            }
            if !matches!(object.state, State::Failed(..)) {
                match std::mem::replace(&mut object.state, State::Dropped) {
                    State::InMemory(value) => {
                        if self.idle.remove(&object.stamp).is_some() {
                            memory.idle -= object.bytes;
                        }
                        self.garbage.push(value.into());
                    }
                    State::Spilling(value) => self.garbage.push(value.into()),
                    _ => {}
                }
                self.garbage.extend(object.file.take().map(Garbage::from));
            }
            if object.descendants == 0 {
                let Some(recipe) = self.arena.remove(key).and_then(|object| object.recipe) else { continue };
                for input in &recipe.inputs {
                    if let Some(ancestor) = self.arena.get_mut(*input) {
                        ancestor.descendants -= 1;
                        unused.push(*input);
                    }
                }
                self.garbage.push(recipe.into());
            }
        }
    }
}
