//! What befalls requests, engines and the table, told as stories and at random.

use super::{table::TERM, *};
use proptest::prelude::*;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

fn mark(of: u8) -> Mark {
    [of; 16]
}

fn death(epoch: u64) -> DeathId {
    ("local".to_owned(), epoch)
}

#[tokio::test(start_paused = true)]
async fn who_was_alone_at_a_death_is_barred_for_ten_minutes_and_who_was_not_runs_alone() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.accuse(death(1), &[mark(1), mark(2), mark(3)], now);
    assert!(!table.confirm(&death(1), now), "one of three, nobody knows which");
    assert_eq!(table.verdict(&mark(1), now), Verdict::Alone);
    assert_eq!(table.verdict(&mark(9), now), Verdict::Free);
    table.clear(&mark(2));
    assert_eq!(table.verdict(&mark(2), now), Verdict::Free);
    table.accuse(death(2), &[mark(1)], now);
    assert!(table.confirm(&death(2), now));
    assert_eq!(table.verdict(&mark(1), now), Verdict::Barred { until: now + TERM });
    assert_eq!(table.verdict(&mark(1), now + TERM), Verdict::Free);
    assert_eq!(table.verdict(&mark(3), now), Verdict::Alone, "still to be cleared");
    assert_eq!(table.verdict(&mark(3), now + TERM), Verdict::Free);
}

#[tokio::test(start_paused = true)]
async fn a_death_whose_cause_comes_later_blames_nobody_for_good_until_then() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.accuse(death(1), &[mark(1)], now);
    assert_eq!(table.verdict(&mark(1), now), Verdict::Alone);
    table.absolve(&death(1));
    assert!(table.is_empty(), "a signal from outside");
    table.accuse(death(2), &[mark(1), mark(2)], now);
    table.accuse(death(3), &[mark(2)], now);
    table.absolve(&death(3));
    assert_eq!(table.verdict(&mark(2), now), Verdict::Alone, "the earlier suspicion stands");
    assert!(!table.confirm(&death(3), now), "once");
    table.accuse(death(4), &[mark(7)], now);
    assert!(table.confirm(&death(4), now) && !table.confirm(&death(4), now));
    table.absolve(&death(4));
    assert_eq!(table.verdict(&mark(7), now), Verdict::Free, "it was memory that ran out, as it turned out");
}

#[tokio::test(start_paused = true)]
async fn the_same_request_twice_in_a_batch_is_one_that_was_alone() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.accuse(death(1), &[mark(1), mark(1)], now);
    assert!(table.confirm(&death(1), now));
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded_and_forgets_the_oldest_first() {
    let (mut table, start) = (Table::default(), Instant::now());
    let numbered = |n: u64| {
        let mut mark = mark(0);
        mark[..8].copy_from_slice(&n.to_le_bytes());
        mark
    };
    for n in 0..3000 {
        table.accuse(death(n), &[numbered(n)], start + Duration::from_millis(n));
    }
    let now = start + Duration::from_secs(3);
    assert_eq!(table.verdict(&numbered(0), now), Verdict::Free);
    assert_eq!(table.verdict(&numbered(2999), now), Verdict::Alone);
    assert!(format!("{table:?}").matches("Instant").count() <= 1024 + 64);
}

#[test]
fn a_mark_knows_prompt_and_schema_and_nothing_else() {
    let poison = Poison::default();
    let request = ChatRequest::plain("hello");
    let mark = poison.mark(&request);
    let body = |body: serde_json::Value| ChatRequest { body: body.as_object().unwrap().clone(), ..request.clone() };
    assert_eq!(mark, poison.mark(&ChatRequest { id: crate::domain::RequestId::random(), ..request.clone() }));
    assert_eq!(mark, poison.mark(&body(json!({"temperature": 1.0, "user": "u"}))));
    assert_ne!(mark, poison.mark(&ChatRequest::plain("hello ")));
    assert_ne!(mark, poison.mark(&body(json!({"response_format": {"type": "json_object"}}))));
    assert_ne!(mark, Poison::default().mark(&request), "keyed by process");
}

/// One GPU of some places and a queue, as RouterActor and the slot keep them.
struct World {
    table: Table,
    queue: Vec<u8>,
    running: Vec<u8>,
    alone: bool,
    epoch: u64,
    /// Engine deaths that each was there for.
    seen: BTreeMap<u8, u32>,
    done: Vec<u8>,
    refused: Vec<u8>,
    now: Instant,
}

const PLACES: usize = 4;

impl World {
    fn admit(&mut self) {
        let mut kept = Vec::new();
        let mut closed = false;
        for request in std::mem::take(&mut self.queue) {
            let free = self.running.len() < PLACES && !self.alone && !closed;
            match self.table.verdict(&mark(request), self.now) {
                Verdict::Barred { .. } => self.refused.push(request),
                Verdict::Alone if free && self.running.is_empty() => {
                    self.alone = true;
                    self.running.push(request);
                }
                Verdict::Alone => {
                    closed = true;
                    kept.push(request);
                }
                Verdict::Free if free => self.running.push(request),
                Verdict::Free => kept.push(request),
            }
        }
        self.queue = kept;
    }

    /// The engine dies of a poison in its batch, else answers one request. `late`: why it died becomes known only after
    /// everybody was queued again.
    fn step(&mut self, poison: &[u8], pick: usize, late: bool) {
        if self.running.is_empty() {
            return;
        }
        if self.running.iter().any(|request| poison.contains(request)) {
            self.epoch += 1;
            let marks: Vec<Mark> = self.running.iter().map(|request| mark(*request)).collect();
            self.table.accuse(death(self.epoch), &marks, self.now);
            self.running.iter().for_each(|request| *self.seen.entry(*request).or_default() += 1);
            let mut queue = std::mem::take(&mut self.running);
            queue.append(&mut self.queue);
            (self.queue, self.alone) = (queue, false);
            if late {
                assert!(
                    self.queue.iter().all(|request| self.table.verdict(&mark(*request), self.now) != Verdict::Free
                        || !marks.contains(&mark(*request)))
                );
            }
            self.table.confirm(&death(self.epoch), self.now);
        } else {
            let request = self.running.remove(pick % self.running.len());
            self.table.clear(&mark(request));
            self.done.push(request);
            self.alone = false;
        }
    }
}

proptest! {
    /// Whatever comes in whichever order: a poison is there for at most two deaths, and everybody else is answered.
    #[test]
    fn f22_no_prompt_sees_more_than_two_deaths_and_no_innocent_is_barred(
        arrivals in proptest::collection::vec(0_u8..24, 1..80),
        poison in proptest::collection::btree_set(0_u8..24, 0..4),
        picks in proptest::collection::vec((0_usize..4, any::<bool>()), 600),
    ) {
        let poison: Vec<u8> = poison.into_iter().collect();
        let start = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let now = start.block_on(async { Instant::now() });
        let mut world = World {
            table: Table::default(), queue: Vec::new(), running: Vec::new(), alone: false, epoch: 0,
            seen: BTreeMap::new(), done: Vec::new(), refused: Vec::new(), now,
        };
        let mut coming = arrivals.iter().copied();
        for (pick, late) in picks {
            if late { world.queue.extend(coming.next()); }
            world.admit();
            world.step(&poison, pick, late);
        }
        world.queue.extend(coming);
        for _ in 0..400 {
            world.admit();
            world.step(&poison, 0, false);
        }
        prop_assert!(world.queue.is_empty() && world.running.is_empty());
        for (request, deaths) in &world.seen {
            // An innocent may be there by chance at the two deaths of each poison.
            let most = if poison.contains(request) { 2 } else { 2 * poison.len() as u32 };
            prop_assert!(*deaths <= most, "{request} saw {deaths} deaths");
        }
        prop_assert!(world.epoch <= 2 * poison.len() as u64, "{} deaths of {} poisons", world.epoch, poison.len());
        prop_assert!(world.refused.iter().all(|request| poison.contains(request)));
        let innocent = arrivals.iter().filter(|request| !poison.contains(request)).count();
        prop_assert_eq!(world.done.len(), innocent);
    }
}
