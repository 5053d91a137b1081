//! All objects: where each one is, who refers to it, and how to make it again.
//!
//! An object is in memory, on disk, or still to be made. In memory it is *pinned* while running work or a caller uses
//! it, and *idle* otherwise. When memory is wanted for something else, idle objects are evicted to disk, the least
//! recently used first.

use std::collections::BTreeMap;
use std::sync::Arc;

use cenote_base::{Error, Result};
use tokio::sync::oneshot;

use super::arena::{Arena, Key};
use super::memory_budget::MemoryBudget;
use super::task_failure::TaskFailure;
use super::task_spec::Lineage;
use crate::objects::spill::SpillFile;
use crate::objects::value::Value;

/// The longest chain of objects that can be made again one from the other. An object beyond it is kept as if it had
/// been `put`, so that a loop that feeds its result back to itself does not remember all its rounds.
const LINEAGE_MAX: u32 = 100;

/// All objects that somebody refers to, or that are needed to make others again.
#[derive(Debug, Default)]
pub(crate) struct ObjectTable {
    objects: Arena<Object>,
    /// Idle objects in memory by the stamp of their last use.
    idle: BTreeMap<u64, Key>,
    stamps: u64,
    garbage: Vec<Garbage>,
}

#[derive(Debug)]
struct Object {
    state: ObjectState,
    bytes: u64,
    /// [`ObjectRef`](crate::ObjectRef)s and unfinished tasks that take it.
    users: u32,
    /// Objects that could be made again from it.
    descendants: u32,
    /// Running tasks and callers that use it at the moment.
    pins: u32,
    /// The stamp of its last use.
    stamp: u64,
    lineage: Option<Arc<Lineage>>,
    generation: u32,
    /// The copy on disk, which is kept when the object is read back.
    file: Option<Arc<SpillFile>>,
    listeners: Listeners,
}

#[derive(Debug)]
enum ObjectState {
    /// Its task has not ended.
    Pending,
    InMemory(Value),
    /// On its way to disk; it can still be pinned.
    Spilling(Value),
    OnDisk,
    /// On its way back from disk, and held.
    Restoring,
    /// Nobody refers to it, but something made from it may have to be made again.
    Dropped,
    Failed(TaskFailure),
}

/// The tasks and callers that wait for an object.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) tasks: Vec<Key>,
    pub(crate) callers: Vec<oneshot::Sender<()>>,
}

/// The answer to a task that needs an object.
pub(crate) enum Availability {
    Available,
    /// The task is told when the object is there.
    Pending,
    Failed(TaskFailure),
}

/// The content of an object that was pinned.
#[derive(Debug)]
pub(crate) enum PinnedContent {
    InMemory(Value),
    /// To be read by the caller, who then calls [`ObjectTable::restored`], [`ObjectTable::restore_skipped`] or
    /// [`ObjectTable::lost`].
    OnDisk(Arc<SpillFile>),
}

/// An evicted object. The caller that caused the eviction writes it, then calls [`ObjectTable::spilled`] or
/// [`ObjectTable::spill_failed`].
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) object: Key,
    pub(crate) value: Value,
}

/// A large value, a file, or code of the caller's: none of them may be dropped while the lock is held.
#[derive(Debug)]
pub(crate) enum Garbage {
    Value { _value: Value },
    Lineage { _lineage: Arc<Lineage> },
    File { _file: Arc<SpillFile> },
}

impl From<Value> for Garbage {
    fn from(value: Value) -> Self {
        Self::Value { _value: value }
    }
}

impl From<Arc<Lineage>> for Garbage {
    fn from(lineage: Arc<Lineage>) -> Self {
        Self::Lineage { _lineage: lineage }
    }
}

impl From<Arc<SpillFile>> for Garbage {
    fn from(file: Arc<SpillFile>) -> Self {
        Self::File { _file: file }
    }
}

impl ObjectTable {
    /// Adds a pending object with one user. `lineage` makes it again if it is lost.
    pub(crate) fn create(&mut self, lineage: Option<Arc<Lineage>>) -> Key {
        let ancestors = lineage.iter().flat_map(|lineage| &lineage.inputs).filter_map(|input| self.objects.get(*input));
        let generation = ancestors.map(|ancestor| ancestor.generation + 1).max().unwrap_or(0);
        let (lineage, generation) = if generation > LINEAGE_MAX {
            self.garbage.extend(lineage.map(Garbage::from));
            (None, 0)
        } else {
            (lineage, generation)
        };
        for input in lineage.iter().flat_map(|lineage| &lineage.inputs) {
            if let Some(input) = self.objects.get_mut(*input) {
                input.descendants += 1;
            }
        }
        self.objects.insert(Object {
            state: ObjectState::Pending,
            bytes: 0,
            users: 1,
            descendants: 0,
            pins: 0,
            stamp: 0,
            lineage,
            generation,
            file: None,
            listeners: Listeners::default(),
        })
    }

    pub(crate) fn is_in_memory(&self, key: Key) -> bool {
        self.objects.get(key).is_some_and(|object| matches!(object.state, ObjectState::InMemory(_)))
    }

    /// Returns whether an object was dropped or lost, and has to be made again before it can be used.
    pub(crate) fn is_dropped(&self, key: Key) -> bool {
        self.objects.get(key).is_some_and(|object| matches!(object.state, ObjectState::Dropped))
    }

    /// Returns the bytes of an object that has been made.
    pub(crate) fn bytes(&self, key: Key) -> u64 {
        self.objects.get(key).map_or(0, |object| object.bytes)
    }

    /// Returns the bytes that pinning `keys` adds to the memory that is held; `None` while one of them cannot be
    /// pinned.
    pub(crate) fn pin_bytes(&self, keys: &[Key]) -> Option<u64> {
        let bytes = |key: &Key| {
            let object = self.objects.get(*key)?;
            match object.state {
                ObjectState::InMemory(_) | ObjectState::Spilling(_) | ObjectState::OnDisk if object.pins == 0 => {
                    Some(object.bytes)
                }
                ObjectState::InMemory(_) => Some(0),
                _ => None,
            }
        };
        keys.iter().map(bytes).sum()
    }

    /// Tells whether an object is there for `task`, which is told later if the object is pending.
    pub(crate) fn require(&mut self, key: Key, task: Key) -> Availability {
        let Some(object) = self.objects.get_mut(key) else { return Availability::Available };
        match &object.state {
            ObjectState::Pending => {
                object.listeners.tasks.push(task);
                Availability::Pending
            }
            ObjectState::Failed(failure) => Availability::Failed(failure.clone()),
            _ => Availability::Available,
        }
    }

    /// Returns a receiver that is woken when a pending object has been made or has failed; `None` if it is there.
    ///
    /// # Errors
    /// The object's failure.
    pub(crate) fn listen(&mut self, key: Key) -> Result<Option<oneshot::Receiver<()>>> {
        let Some(object) = self.objects.get_mut(key) else {
            return Err(Error::internal("an object vanished while it was referred to"));
        };
        match &object.state {
            ObjectState::Pending => {
                let (sender, receiver) = oneshot::channel();
                object.listeners.callers.push(sender);
                Ok(Some(receiver))
            }
            ObjectState::Failed(failure) => Err(failure.error().clone()),
            _ => Ok(None),
        }
    }

    /// Removes and returns those who wait for an object.
    pub(crate) fn take_listeners(&mut self, key: Key) -> Listeners {
        self.objects.get_mut(key).map_or_else(Listeners::default, |object| std::mem::take(&mut object.listeners))
    }

    /// Pins an object for which [`pin_bytes`](Self::pin_bytes) returned a number.
    pub(crate) fn pin(&mut self, key: Key, memory: &mut MemoryBudget) -> Option<PinnedContent> {
        let object = self.objects.get_mut(key)?;
        let content = match std::mem::replace(&mut object.state, ObjectState::Restoring) {
            ObjectState::InMemory(value) => {
                if object.pins == 0 && self.idle.remove(&object.stamp).is_some() {
                    memory.remove_idle(object.bytes);
                }
                object.state = ObjectState::InMemory(value.clone());
                PinnedContent::InMemory(value)
            }
            ObjectState::Spilling(value) => {
                object.state = ObjectState::InMemory(value.clone());
                PinnedContent::InMemory(value)
            }
            ObjectState::OnDisk => PinnedContent::OnDisk(object.file.clone()?),
            other => {
                object.state = other;
                return None;
            }
        };
        object.pins += 1;
        if object.pins == 1 {
            memory.hold(object.bytes);
        }
        Some(content)
    }

    pub(crate) fn unpin(&mut self, key: Key, memory: &mut MemoryBudget) {
        let Some(object) = self.objects.get_mut(key) else { return };
        object.pins -= 1;
        if object.pins > 0 {
            return;
        }
        memory.release(object.bytes);
        if matches!(object.state, ObjectState::InMemory(_)) {
            self.make_idle(key, memory);
        }
        self.drop_if_unused(key, memory);
    }

    /// Adds an object in memory to the idle ones, as the most recently used.
    fn make_idle(&mut self, key: Key, memory: &mut MemoryBudget) {
        if let Some(object) = self.objects.get_mut(key) {
            self.stamps += 1;
            object.stamp = self.stamps;
            memory.add_idle(object.bytes);
            self.idle.insert(self.stamps, key);
        }
    }

    /// Puts the value of a pending object into memory, idle. The caller then makes room with [`evict`](Self::evict).
    pub(crate) fn admit(&mut self, key: Key, value: Value, memory: &mut MemoryBudget) {
        let Some(object) = self.objects.get_mut(key) else { return self.garbage.push(value.into()) };
        object.bytes = value.size_bytes();
        object.state = ObjectState::InMemory(value);
        self.make_idle(key, memory);
        self.drop_if_unused(key, memory);
    }

    /// Evicts idle objects until memory is within its budget, the least recently used first.
    pub(crate) fn evict(&mut self, memory: &mut MemoryBudget) -> Vec<Victim> {
        let mut victims = Vec::new();
        while !memory.has_room(0) {
            let Some((_, key)) = self.idle.pop_first() else { break };
            let Some(object) = self.objects.get_mut(key) else { continue };
            memory.remove_idle(object.bytes);
            match std::mem::replace(&mut object.state, ObjectState::OnDisk) {
                ObjectState::InMemory(value) if object.file.is_some() => self.garbage.push(value.into()),
                ObjectState::InMemory(value) => {
                    object.state = ObjectState::Spilling(value.clone());
                    victims.push(Victim { object: key, value });
                }
                other => object.state = other,
            }
        }
        victims
    }

    /// Records that a victim was written to `file`.
    pub(crate) fn spilled(&mut self, key: Key, file: Arc<SpillFile>) {
        let Some(object) = self.objects.get_mut(key) else { return self.garbage.push(file.into()) };
        // Meanwhile it may have been pinned, and the file saves writing it again; or it may have been dropped.
        match std::mem::replace(&mut object.state, ObjectState::OnDisk) {
            ObjectState::Spilling(value) => self.garbage.push(value.into()),
            ObjectState::InMemory(value) => object.state = ObjectState::InMemory(value),
            other => {
                object.state = other;
                return self.garbage.push(file.into());
            }
        }
        object.file = Some(file);
    }

    /// Records that a victim could not be written. It stays in memory, even if that exceeds the budget.
    pub(crate) fn spill_failed(&mut self, key: Key, memory: &mut MemoryBudget) {
        let Some(object) = self.objects.get_mut(key) else { return };
        match std::mem::replace(&mut object.state, ObjectState::Pending) {
            ObjectState::Spilling(value) => {
                object.state = ObjectState::InMemory(value);
                self.make_idle(key, memory);
            }
            other => object.state = other,
        }
    }

    /// Records that an object that was pinned on disk is in memory again.
    pub(crate) fn restored(&mut self, key: Key, value: Value) {
        if let Some(object) = self.objects.get_mut(key) {
            object.state = ObjectState::InMemory(value);
        }
    }

    /// Records that an object that was pinned on disk is not going to be read. It stays pinned.
    pub(crate) fn restore_skipped(&mut self, key: Key) {
        if let Some(object) = self.objects.get_mut(key) {
            object.state = ObjectState::OnDisk;
        }
    }

    /// Records that an object that was pinned on disk cannot be read, and unpins it. Without its lineage it has failed.
    pub(crate) fn lost(&mut self, key: Key, error: &Error, memory: &mut MemoryBudget) {
        let Some(object) = self.objects.get_mut(key) else { return };
        object.pins -= 1;
        memory.release(object.bytes);
        self.garbage.extend(object.file.take().map(Garbage::from));
        object.state = match object.lineage {
            Some(_) => ObjectState::Dropped,
            None => {
                let error = error.clone().context("an object was lost, and nothing is known to make it again");
                ObjectState::Failed(error.into())
            }
        };
    }

    /// Returns the lineage of a dropped object, which is pending from now on; `None` if it cannot be made again.
    pub(crate) fn make_again(&mut self, key: Key) -> Option<Arc<Lineage>> {
        let object = self.objects.get_mut(key)?;
        let lineage = object.lineage.clone()?;
        object.state = ObjectState::Pending;
        Some(lineage)
    }

    /// Adds a user of an object.
    pub(crate) fn retain(&mut self, key: Key) {
        if let Some(object) = self.objects.get_mut(key) {
            object.users += 1;
        }
    }

    /// Removes a user of an object.
    pub(crate) fn release(&mut self, key: Key, memory: &mut MemoryBudget) {
        if let Some(object) = self.objects.get_mut(key) {
            object.users -= 1;
            self.drop_if_unused(key, memory);
        }
    }

    /// Records that an object could not be made.
    pub(crate) fn fail(&mut self, key: Key, failure: TaskFailure, memory: &mut MemoryBudget) {
        if let Some(object) = self.objects.get_mut(key) {
            object.state = ObjectState::Failed(failure);
            self.drop_if_unused(key, memory);
        }
    }

    /// Drops the value of an object without users, and forgets the object once nothing that could be made again needs
    /// it.
    fn drop_if_unused(&mut self, key: Key, memory: &mut MemoryBudget) {
        let mut unused = vec![key];
        while let Some(key) = unused.pop() {
            let Some(object) = self.objects.get_mut(key) else { continue };
            if object.users > 0 || object.pins > 0 || matches!(object.state, ObjectState::Pending) {
                continue;
            }
            if !matches!(object.state, ObjectState::Failed(_)) {
                match std::mem::replace(&mut object.state, ObjectState::Dropped) {
                    ObjectState::InMemory(value) => {
                        if self.idle.remove(&object.stamp).is_some() {
                            memory.remove_idle(object.bytes);
                        }
                        self.garbage.push(value.into());
                    }
                    ObjectState::Spilling(value) => self.garbage.push(value.into()),
                    _ => {}
                }
                self.garbage.extend(object.file.take().map(Garbage::from));
            }
            if object.descendants == 0 {
                let Some(lineage) = self.objects.remove(key).and_then(|object| object.lineage) else { continue };
                for input in &lineage.inputs {
                    if let Some(ancestor) = self.objects.get_mut(*input) {
                        ancestor.descendants -= 1;
                        unused.push(*input);
                    }
                }
                self.garbage.push(lineage.into());
            }
        }
    }

    /// Returns what is to be dropped once the lock is released.
    pub(crate) fn take_garbage(&mut self) -> Vec<Garbage> {
        std::mem::take(&mut self.garbage)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }

    /// Panics unless `memory` agrees with the objects and each object is needed; returns the bytes that are pinned.
    /// `in_transit_bytes` may be in memory beyond the budget.
    #[cfg(test)]
    pub(crate) fn audit(&self, memory: &MemoryBudget, in_transit_bytes: u64) -> u64 {
        let (mut pinned, mut idle, mut present) = (0, 0, 0);
        for (key, object) in self.objects.iter() {
            match &object.state {
                ObjectState::InMemory(value) => {
                    assert_eq!(value.size_bytes(), object.bytes);
                    present += object.bytes;
                    idle += if object.pins == 0 { object.bytes } else { 0 };
                }
                ObjectState::Spilling(_) => present += object.bytes,
                ObjectState::Restoring => assert!(object.pins > 0, "{key:?} is restored for nobody"),
                _ => assert_eq!(object.pins, 0, "{key:?} is pinned but not there"),
            }
            pinned += if object.pins > 0 { object.bytes } else { 0 };
            let is_needed = object.users > 0 || object.pins > 0 || object.descendants > 0;
            assert!(is_needed || matches!(object.state, ObjectState::Pending), "{key:?} is kept for nobody");
        }
        assert_eq!(memory.idle(), idle, "idle bytes");
        let total = memory.total();
        assert!(present <= total + in_transit_bytes, "{present} bytes are in memory; the budget is {total}");
        pinned
    }
}
