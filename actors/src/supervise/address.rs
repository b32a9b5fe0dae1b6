//! Where an actor is right now. Actors and flights keep an [`Address`], never a reference captured at start: after a
//! restart the same address leads to the new incarnation.

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};
use std::{fmt, sync::Arc};
use tokio::{sync::watch, time::Instant};

struct Inner<M: Message> {
    current: ArcSwapOption<ActorRef<M>>,
    changes: watch::Sender<u64>,
}

/// The current reference of one actor, shared by all who talk to it.
pub struct Address<M: Message> {
    inner: Arc<Inner<M>>,
}

impl<M: Message> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({:?})", self.get().map(|actor| actor.get_id()))
    }
}

impl<M: Message> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Message> Default for Address<M> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { current: ArcSwapOption::empty(), changes: watch::Sender::new(0) }) }
    }
}

impl<M: Message> Address<M> {
    /// Called by the supervisor right after a (re)start.
    pub fn set(&self, actor: ActorRef<M>) {
        self.inner.current.store(Some(Arc::new(actor)));
        self.inner.changes.send_modify(|changes| *changes += 1);
    }

    /// Called by the supervisor when the actor died.
    pub fn clear(&self) {
        self.inner.current.store(None);
    }

    pub fn get(&self) -> Option<ActorRef<M>> {
        self.inner.current.load().as_ref().map(|actor| ActorRef::clone(actor))
    }

    /// Sends without waiting for an answer; a message to a dead actor is dropped and `false` comes back.
    pub fn cast(&self, message: M) -> bool {
        self.get().is_some_and(|actor| actor.cast(message).is_ok())
    }

    /// Waits until an actor lives here, at most until `deadline`.
    pub async fn wait(&self, deadline: Instant) -> Option<ActorRef<M>> {
        if let Some(actor) = self.get() {
            return Some(actor);
        }
        let mut changes = self.inner.changes.subscribe();
        loop {
            if let Some(actor) = self.get() {
                return Some(actor);
            }
            tokio::time::timeout_at(deadline, changes.changed()).await.ok()?.ok()?;
        }
    }
}
