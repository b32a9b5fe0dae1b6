//! What all parts of one simulation share: the log, the dice, the weather, what went wrong, and what providers have billed.

use super::dice::Dice;
use crate::ledger::Ledger;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// One call that a provider answers for money.
#[derive(Debug, Clone)]
pub(super) struct Bill {
    pub(super) request: String,
    /// As the provider calls it.
    pub(super) model: String,
    /// Tokens so far.
    pub(super) generated: u64,
}

/// What every prompt costs; the gateway's estimate is never less.
pub(super) const PROMPT_TOKENS: u64 = 3;

pub(super) struct Scene {
    /// When the present process began, and what had passed before.
    began: Mutex<(Instant, Duration)>,
    log: Mutex<String>,
    wrongs: Mutex<Vec<String>>,
    dice: Mutex<Dice>,
    /// Nothing breaks any more.
    calm: AtomicBool,
    numbers: AtomicU64,
    /// Of a hundred calls of a provider, how many fail.
    pub(super) storms: Mutex<BTreeMap<String, u64>>,
    pub(super) disk_is_full: AtomicBool,
    pub(super) disk_does_not_sync: AtomicBool,
    pub(super) ledger: Mutex<Option<Ledger>>,
    pub(super) bills: Mutex<Vec<Bill>>,
    /// Paid calls that arrived, by request.
    pub(super) calls: Mutex<BTreeMap<String, usize>>,
    /// Engines that have not ended.
    pub(super) engines: AtomicUsize,
}

#[derive(Clone)]
pub(super) struct Stage(Arc<Scene>);

impl std::ops::Deref for Stage {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

impl Stage {
    pub(super) fn new(dice: Dice) -> Self {
        Self(Arc::new(Scene {
            began: Mutex::new((Instant::now(), Duration::ZERO)),
            log: Mutex::default(),
            wrongs: Mutex::default(),
            dice: Mutex::new(dice),
            calm: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
            storms: Mutex::default(),
            disk_is_full: AtomicBool::new(false),
            disk_does_not_sync: AtomicBool::new(false),
            ledger: Mutex::default(),
            bills: Mutex::default(),
            calls: Mutex::default(),
            engines: AtomicUsize::new(0),
        }))
    }
}

impl Scene {
    pub(super) fn say(&self, what: fmt::Arguments<'_>) {
        let now = self.now();
        let mut log = self.log.lock();
        writeln!(log, "{:>4}.{:06} {what}", now.as_secs(), now.subsec_micros()).unwrap();
    }

    /// Virtual time, over all lives of the gateway.
    pub(super) fn now(&self) -> Duration {
        let (began, before) = *self.began.lock();
        before + began.elapsed()
    }

    /// A process begins, with a clock of its own.
    pub(super) fn begin_life(&self, before: Duration) {
        *self.began.lock() = (Instant::now(), before);
        self.engines.store(0, Ordering::Relaxed);
        self.disk_is_full.store(false, Ordering::Relaxed);
        self.disk_does_not_sync.store(false, Ordering::Relaxed);
    }

    /// Something that must never happen.
    pub(super) fn wrong(&self, what: impl fmt::Display) {
        self.say(format_args!("WRONG {what}"));
        self.wrongs.lock().push(what.to_string());
    }

    pub(super) fn demand(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong(what());
        }
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().clone()
    }

    pub(super) fn wrongs(&self) -> Vec<String> {
        self.wrongs.lock().clone()
    }

    /// Dice for another part.
    pub(super) fn dice(&self) -> Dice {
        self.dice.lock().fork()
    }

    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// From now on everything works.
    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.storms.lock().clear();
        self.disk_is_full.store(false, Ordering::Relaxed);
        self.disk_does_not_sync.store(false, Ordering::Relaxed);
    }

    /// Of a hundred calls there, how many fail.
    pub(super) fn storm(&self, host: &str) -> u64 {
        if self.is_calm() { 0 } else { self.storms.lock().get(host).copied().unwrap_or(8) }
    }
}

/// The word at this place of every answer: a lost or doubled one shows.
pub(super) fn word(at: u64) -> String {
    format!("word{at} ")
}

/// An answer of so many words.
pub(super) fn words(count: u64) -> String {
    (0..count).map(word).collect()
}

/// How many words are asked for, by the prompt's own text.
pub(super) fn asked_words(prompt: &str) -> u64 {
    let told = prompt.split("answer=").nth(1).unwrap_or("1");
    let digits: String = told.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(1)
}

/// Ends whatever engine works on it.
pub(super) const POISON: &str = "poison=yes";
