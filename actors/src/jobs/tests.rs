//! One story, and a machine that admits, leases, cancels, settles and drops in any order: every admitted request ends once
//! and the counts always balance.

use super::*;
use crate::{
    config::{EngineRestart, LocalConfig},
    domain::Caller,
    gpu::{EngineSlot, poison::Poison},
};
use proptest::{prelude::*, test_runner::Config as Cases};

fn request() -> ChatRequest {
    ChatRequest { id: RequestId::random(), ..ChatRequest::plain("hi") }
}

#[tokio::test(start_paused = true)]
async fn every_admitted_request_ends_once_whether_settled_or_dropped() {
    let table = JobTable::new(3, true);
    let (now, config) = (Instant::now(), Arc::new(Config::built_in()));
    let admit = || table.admit(request(), Arc::clone(&config), now);
    let (first, second, third) = (admit().unwrap(), admit().unwrap(), admit().unwrap());
    assert_eq!(admit().unwrap_err().kind, ErrorKind::RateLimited);
    first.settle(Outcome::Completed);
    drop(second);
    table.fail_all();
    assert!(third.job().is_cancelled());
    assert_eq!(admit().unwrap_err().kind, ErrorKind::ShuttingDown);
    third.settle(Outcome::Failed(ErrorKind::ShuttingDown));
    assert!(table.drained(Duration::ZERO).await);
    let totals = table.totals();
    assert_eq!((totals.admitted, totals.refused, totals.running), (3, 2, 0));
    assert_eq!(totals.ended.into_iter().collect::<Vec<_>>(), [("internal", 1), ("ok", 1), ("shutting_down", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_higher_class_waits_in_front_but_not_of_those_who_have_waited_long() {
    let table = JobTable::new(8, true);
    let (began, config) = (Instant::now(), Arc::new(Config::built_in()));
    let waiting = |priority: Priority, after_s: u64| {
        let caller = Some(Arc::new(Caller { priority, ..Caller::unlimited("key") }));
        let request = ChatRequest { caller, ..request() };
        table.admit(request, Arc::clone(&config), began + Duration::from_secs(after_s)).unwrap()
    };
    let guards = [
        waiting(Priority::Low, 0),
        waiting(Priority::Normal, 1),
        waiting(Priority::High, 2),
        waiting(Priority::Normal, 4),
        waiting(Priority::High, 7),
        waiting(Priority::Normal, 20),
    ];
    let mut turns: Vec<_> = guards.iter().map(|guard| (guard.job().turn(), guard.job().seq)).collect();
    turns.sort_unstable();
    // The first, low one is before whoever came ten seconds after it, whatever their class.
    assert_eq!(turns.into_iter().map(|(_, seq)| seq).collect::<Vec<_>>(), [3, 2, 5, 4, 1, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_place_is_counted_as_refused_once_and_told_when_to_come_back() {
    let table = JobTable::new(10, true);
    let (now, config) = (Instant::now(), Arc::new(Config::built_in()));
    let normal: Vec<_> = (0..7).map(|_| table.admit(request(), Arc::clone(&config), now).unwrap()).collect();
    assert!(table.has_place(Priority::Normal, now).is_ok());
    let refused = table.has_place(Priority::Low, now).unwrap_err();
    assert_eq!((refused.kind, refused.retry_after), (ErrorKind::RateLimited, Some(Duration::from_secs(1))));
    assert!(table.has_place(Priority::High, now).is_ok());
    assert_eq!((table.totals().admitted, table.totals().refused), (7, 1));
    drop(normal);
    assert!(table.has_place(Priority::Low, now).is_ok());
}

/// Places of the slot that leases are of.
const PARALLEL: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Admit,
    /// RouterActor grants a lease, again perhaps.
    Grant(usize),
    /// The flight takes what was granted.
    Take(usize),
    /// The flight gives its lease back.
    GiveBack(usize),
    Settle(usize, Outcome),
    /// The flight's task ends without a word.
    Drop(usize),
    Limit(usize),
    Close,
    FailAll,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Completed),
        Just(Outcome::ClientGone),
        Just(Outcome::Failed(ErrorKind::Timeout)),
        Just(Outcome::Failed(ErrorKind::Upstream)),
    ];
    prop_oneof![
        8 => Just(Step::Admit),
        4 => any::<usize>().prop_map(Step::Grant),
        3 => any::<usize>().prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::GiveBack),
        3 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        3 => any::<usize>().prop_map(Step::Drop),
        1 => (0..6_usize).prop_map(Step::Limit),
        1 => prop_oneof![9 => Just(Step::Admit), 1 => Just(Step::Close), 1 => Just(Step::FailAll)],
    ]
}

/// One open request as the machine knows it: its guard, and the lease its flight holds.
struct Open {
    guard: JobGuard,
    held: Option<Lease>,
    granted: bool,
}

/// What must be true, kept beside the table.
struct Machine {
    table: JobTable,
    slot: Arc<EngineSlot>,
    config: Arc<Config>,
    open: Vec<Open>,
    limit: usize,
    closed: bool,
    admitted: u64,
    refused: u64,
    ended: BTreeMap<&'static str, u64>,
}

impl Machine {
    fn new(config: Arc<Config>) -> Self {
        let restart = EngineRestart::default();
        Self {
            table: JobTable::new(4, true),
            slot: EngineSlot::new(Arc::new(LocalConfig::tiny(PARALLEL)), restart, Poison::default()),
            config,
            open: Vec::new(),
            limit: 4,
            closed: false,
            admitted: 0,
            refused: 0,
            ended: BTreeMap::new(),
        }
    }

    fn at(&mut self, which: usize) -> Option<&mut Open> {
        let count = self.open.len();
        if count == 0 { None } else { self.open.get_mut(which % count) }
    }

    fn end(&mut self, which: usize, label: &'static str) -> Option<JobGuard> {
        let count = self.open.len();
        if count == 0 {
            return None;
        }
        *self.ended.entry(label).or_default() += 1;
        Some(self.open.remove(which % count).guard)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Admit => self.admit(),
            Step::Grant(which) => {
                if let Some(lease) = self.slot.lease_without_engine()
                    && let Some(open) = self.at(*which)
                {
                    open.guard.job().put_lease(lease);
                    open.granted = true;
                }
            }
            Step::Take(which) => {
                if let Some(open) = self.at(*which) {
                    let lease = open.guard.job().take_lease();
                    assert_eq!(lease.is_some(), std::mem::take(&mut open.granted));
                    open.held = lease.or(open.held.take());
                }
            }
            Step::GiveBack(which) => drop(self.at(*which).and_then(|open| open.held.take())),
            Step::Settle(which, outcome) => {
                if let Some(guard) = self.end(*which, outcome.label()) {
                    guard.settle(*outcome);
                }
            }
            Step::Drop(which) => drop(self.end(*which, "internal")),
            Step::Limit(limit) => {
                self.limit = *limit;
                self.table.set_limit(*limit, true);
            }
            Step::Close => {
                self.closed = true;
                self.table.close();
            }
            Step::FailAll => {
                self.closed = true;
                self.table.fail_all();
                assert!(self.open.iter().all(|open| open.guard.job().is_cancelled()));
            }
        }
    }

    fn admit(&mut self) {
        let admitted = self.table.admit(request(), Arc::clone(&self.config), Instant::now());
        let may = !self.closed && self.open.len() < self.limit;
        assert_eq!(admitted.is_ok(), may, "{} open of {}", self.open.len(), self.limit);
        match admitted {
            Ok(guard) => {
                self.admitted += 1;
                self.open.push(Open { guard, held: None, granted: false });
            }
            Err(error) => {
                self.refused += 1;
                assert!(error.retry_after.is_some(), "whoever is refused is told when to come back");
            }
        }
    }

    fn check(&self) {
        let totals = self.table.totals();
        assert_eq!((totals.admitted, totals.refused), (self.admitted, self.refused));
        assert_eq!((totals.running, self.table.running()), (self.open.len() as u64, self.open.len()));
        assert_eq!(totals.ended, self.ended, "each ended once, as it was said");
        assert_eq!(totals.admitted, totals.running + totals.ended.values().sum::<u64>());
        let leases: usize =
            self.open.iter().map(|open| usize::from(open.granted) + usize::from(open.held.is_some())).sum();
        assert_eq!(self.slot.view().leases, leases, "no lease is lost or held by nobody");
    }
}

proptest! {
    #![proptest_config(Cases { cases: 256, ..Cases::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_every_request_ends_once_and_the_counts_balance(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut machine = Machine::new(Arc::new(Config::built_in()));
        for step in &steps {
            machine.take(step);
            machine.check();
        }
        while !machine.open.is_empty() {
            machine.take(&Step::Drop(0));
            machine.check();
        }
        assert_eq!((machine.table.running(), machine.slot.view().leases), (0, 0));
    }
}
