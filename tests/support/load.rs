//! Clients that keep asking until they are told to stop. What each asks for follows from its number and its turn, so that
//! a run can be repeated.

use super::{
    client::{Ask, Client},
    gateway::Gateway,
    history::History,
    poll::until,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// Which requests the clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Streaming and not, easy (local) and hard (cloud).
    All,
    /// Easy ones only.
    Easy,
    /// Hard ones only.
    Hard,
}

impl Mix {
    fn ask(self, turn: usize, max_tokens: u32) -> Ask {
        let ask = match (self, turn % 4) {
            (Self::All, 3) | (Self::Hard, _) => Ask::hard(),
            _ => Ask::count(),
        };
        let ask = ask.max_tokens(max_tokens);
        // Every turn of four holds both; the hard ones alternate.
        if (turn + turn / 4).is_multiple_of(2) { ask.stream() } else { ask }
    }
}

pub struct Load {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    pub fn start(gateway: &Gateway, history: &History, clients: usize, mix: Mix, max_tokens: u32) -> Self {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for number in 0..clients {
            let (stop, ended) = (Arc::clone(&stop), Arc::clone(&ended));
            let (client, api, history) = (Client::new(), gateway.api.clone(), history.clone());
            set.spawn(async move {
                let mut turn = number;
                while !stop.load(Ordering::Acquire) {
                    let record = client.ask(&api, mix.ask(turn, max_tokens)).await;
                    history.add(record);
                    ended.fetch_add(1, Ordering::AcqRel);
                    turn += 1;
                }
            });
        }
        Self { stop, ended, clients: set }
    }

    /// Requests that have ended so far.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until `more` further requests have ended.
    pub async fn flow(&self, more: usize) {
        let goal = self.ended() + more;
        let passed = || async { (self.ended() >= goal).then_some(()) };
        until("requests keep ending", Duration::from_secs(60), passed).await;
    }

    /// Lets every client finish its request.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client never panics");
        }
    }
}
