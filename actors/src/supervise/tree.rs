//! The live supervision tree as data: what runs, under whom, how often it was restarted and why it last ended. Kept
//! outside all actors so that `/admin/actors` can tell the story of an actor that is dead.

use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;
use tokio::time::Instant;

/// One actor's line in the tree.
#[derive(Debug, Clone, Serialize)]
pub struct ActorRecord {
    pub name: String,
    pub parent: Option<String>,
    pub state: ActorState,
    pub restarts: u64,
    #[serde(rename = "uptime_s", serialize_with = "uptime")]
    pub since: Instant,
    pub last_exit_cause: Option<String>,
}

fn uptime<S: serde::Serializer>(since: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(since.elapsed().as_secs_f64())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorState {
    Running,
    Restarting,
    Stopped,
}

/// Shared record of all actors.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// In order of first start.
    records: Arc<Mutex<Vec<ActorRecord>>>,
}

impl Tree {
    pub fn started(&self, name: &str, parent: Option<&str>, now: Instant) {
        let mut records = self.records.lock();
        match records.iter_mut().find(|record| record.name == name) {
            Some(record) => {
                record.state = ActorState::Running;
                record.restarts += 1;
                record.since = now;
            }
            None => {
                let record = ActorRecord {
                    name: name.to_owned(),
                    parent: parent.map(str::to_owned),
                    state: ActorState::Running,
                    restarts: 0,
                    since: now,
                    last_exit_cause: None,
                };
                records.push(record);
            }
        }
    }

    pub fn ended(&self, name: &str, cause: &str, state: ActorState) {
        if let Some(record) = self.records.lock().iter_mut().find(|record| record.name == name) {
            record.state = state;
            record.last_exit_cause = Some(cause.to_owned());
        }
    }

    /// All records, in order of first start.
    pub fn snapshot(&self) -> Vec<ActorRecord> {
        self.records.lock().clone()
    }

    /// The tree as indented lines, children in start order, as drawn in the crate's documentation.
    pub fn drawing(&self) -> String {
        let records = self.snapshot();
        let mut out = String::new();
        draw(&records, None, 0, &mut out);
        out
    }
}

fn draw(records: &[ActorRecord], parent: Option<&str>, depth: usize, out: &mut String) {
    for record in records.iter().filter(|record| record.parent.as_deref() == parent) {
        out.push_str(&"  ".repeat(depth));
        out.push_str(&record.name);
        out.push('\n');
        draw(records, Some(&record.name), depth + 1, out);
    }
}
