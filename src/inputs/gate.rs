//! The gate between the inputs and what is behind them: the steps, and the way to the sinks and the dead letters. A reload shuts it, replaces
//! what is behind it, and opens it again; inputs go on reading and wait at the gate with the batch that they have.
//!
//! All outlets share it. Who has passed keeps the way that it passed to, so the queues of the sinks end, and the sinks
//! drain, when the gate is shut (or the last outlet is gone) and the last one that passed is through.
//! Limit: one batch waits for each follower's thread and each connection.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::dead_letters::DeadLetters;
use crate::pipeline::Pipeline;
use crate::pipeline::route::Router;

/// Where a batch goes that has passed.
#[derive(Debug)]
pub struct Passage {
    /// The way to the sinks.
    pub router: Router,
    /// Who keeps what inputs refuse; `None`: nobody.
    pub letters: Option<Arc<DeadLetters>>,
}

impl From<Router> for Passage {
    fn from(router: Router) -> Passage {
        Passage { router, letters: None }
    }
}

/// See the header.
#[derive(Debug)]
pub struct Gate {
    pipeline: RwLock<Arc<Pipeline>>,
    way: watch::Sender<State>,
}

#[derive(Clone, Debug)]
enum State {
    Open(Arc<Passage>),
    Shut,
    /// It will not be opened again.
    Closed,
}

impl Gate {
    /// An open gate.
    pub fn new(pipeline: Pipeline, passage: impl Into<Passage>) -> Arc<Gate> {
        Arc::new(Gate {
            pipeline: RwLock::new(Arc::new(pipeline)),
            way: watch::Sender::new(State::Open(Arc::new(passage.into()))),
        })
    }

    /// The steps of now. What waits at the gate has been through those of before.
    pub fn pipeline(&self) -> Arc<Pipeline> {
        Arc::clone(&self.pipeline.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it leads to, if it is open.
    pub fn pass_now(&self) -> Option<Arc<Passage>> {
        match &*self.way.borrow() {
            State::Open(passage) => Some(Arc::clone(passage)),
            State::Shut | State::Closed => None,
        }
    }

    /// The same, once it is open; `None` when it will not be.
    pub async fn pass(&self) -> Option<Arc<Passage>> {
        let mut way = self.way.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let state = way.wait_for(|state| !matches!(state, State::Shut)).await.ok()?;
        match &*state {
            State::Open(passage) => Some(Arc::clone(passage)),
            State::Shut | State::Closed => None,
        }
    }

    /// Lets nobody pass, until it is opened.
    pub fn shut(&self) {
        self.way.send_replace(State::Shut);
    }

    /// Lets nobody pass any more: what waits is given up unsettled.
    pub fn close(&self) {
        self.way.send_replace(State::Closed);
    }

    /// Opens it, to other steps and another way.
    pub fn open(&self, pipeline: Pipeline, passage: impl Into<Passage>) {
        *self.pipeline.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pipeline);
        self.way.send_replace(State::Open(Arc::new(passage.into())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;

    fn router() -> Router {
        Router::new(Vec::new(), Arc::new(Metrics::new(&[], &[])))
    }

    #[tokio::test]
    async fn who_comes_to_a_shut_gate_waits_and_takes_the_new_way() {
        let gate = Gate::new(Pipeline::default(), router());
        let old = gate.pass_now().expect("open");
        gate.shut();
        assert!(gate.pass_now().is_none());
        let waits = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass().await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished(), "nobody opened it");
        assert_eq!(Arc::strong_count(&old), 1, "the gate keeps no way that it does not lead to");
        gate.open(Pipeline::default(), router());
        let new = waits.await.expect("no panic").expect("open");
        assert!(!Arc::ptr_eq(&old, &new));
        gate.shut();
        gate.close();
        assert!(gate.pass().await.is_none(), "nobody waits for a gate that is closed");
    }
}
