//! Objects that are made again: those that were lost, and those that were dropped and are needed to make others again.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::Error;
use tokio::time::Instant;

use crate::core::{Core, Keep};
use crate::state::arena::Key;
use crate::state::object_table::State;
use crate::state::task::{Call, NewTask, Task, TaskState, Work};

impl Core {
    /// Runs the recipe of an object that was lost or dropped once more.
    pub(crate) fn make_again(&mut self, key: Key, now: Instant) {
        let Some(object) = self.objects.arena.get_mut(key) else { return };
        let Some(recipe) = object.recipe.clone() else {
            let error = Error::not_found("the object was dropped, and nothing is known to make it again");
            return self.objects.fail(key, &error, &mut self.ledger.memory);
        };
        object.state = State::Pending;
        self.counters.made_again += 1;
        let work = Box::new(Call(Arc::clone(&recipe.function)));
        let (spec, inputs) = (Arc::clone(&recipe.spec), recipe.inputs.clone());
        self.admit(NewTask { spec, inputs, output: Some(key), actor: None, work }, now);
    }

    /// A task that was started could not: its inputs are gone. They are made again, and the task waits for them.
    pub(crate) fn restart(&mut self, key: Key, work: Box<dyn Work>, lost: Vec<(Key, Error)>, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.work = Some(work);
        task.distinct.retain(|input| lost.iter().all(|(gone, _)| gone != input));
        self.stop_running(key, Duration::ZERO, Keep::Nothing);
        for (input, error) in &lost {
            self.objects.lost(*input, error, &mut self.ledger.memory);
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.distinct.extend(lost.iter().map(|(gone, _)| *gone));
            task.distinct.sort_unstable();
        }
        self.leave_replica(key, false, now);
        self.await_inputs(key, now);
        // Others were ready to take the same objects.
        let takes_lost = |task: &Task| lost.iter().any(|(gone, _)| task.distinct.binary_search(gone).is_ok());
        let queued = |task: &Task| matches!(task.state, TaskState::Ready | TaskState::Mailbox);
        let others = self.tasks.iter().filter(|(_, task)| queued(task) && takes_lost(task));
        for other in others.map(|(other, _)| other).collect::<Vec<_>>() {
            self.unqueue(other);
            self.leave_replica(other, false, now);
            self.await_inputs(other, now);
        }
        self.end_failed(now);
    }
}
