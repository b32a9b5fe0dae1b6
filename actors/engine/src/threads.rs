//! How many threads decode: one per physical core that this process may use, less the cores that others keep busy.
//!
//! Hyper-threads do not help: the work is bound by memory and arithmetic units, which they share. Beside a busy process
//! every thread more is a loss, because each of the many barriers of a step waits for the thread whose core is taken.
//! So [`Crew`] looks round now and then, and says when another number would be better. It is pure: what was seen comes in
//! as an argument.

use std::{collections::BTreeSet, path::Path, time::Duration};

/// Between two looks: the kernel counts in hundredths of a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look after a longer pause tells of a time when nothing was computed.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// A crowd is believed after so many looks in a row, and room after so many: going back too early costs more.
const LOOKS_CROWDED: u32 = 2;
const LOOKS_ROOMY: u32 = 8;
/// Every change moves the cells of all sequences, so there is a pause between two.
const SETTLES_FOR: Duration = Duration::from_secs(5);
/// Of one thread's core, what others may use before it is taken back, and before it is given.
const CROWDED: f64 = 0.6;
const ROOMY: f64 = 0.3;

/// CPU times so far, of all cores that this process may use; each since a moment that stays the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    pub at: Duration,
    /// Of everybody at normal priority or above, and what the host of a virtual machine withheld.
    pub busy: Duration,
    /// Of this process.
    pub own: Duration,
    /// Logical cores.
    pub cores: u32,
}

/// The threads that decode, and what they know of their neighbours.
#[derive(Debug)]
pub struct Crew {
    most: u32,
    now: u32,
    last: Option<Look>,
    crowded: u32,
    roomy: u32,
    changed: Option<Duration>,
}

impl Crew {
    /// All threads at work.
    pub const fn new(most: u32) -> Self {
        Self { most, now: most, last: None, crowded: 0, roomy: 0, changed: None }
    }

    /// Whether it is time for another look.
    pub fn is_due(&self, at: Duration) -> bool {
        self.most > 1 && self.last.is_none_or(|last| at.saturating_sub(last.at) >= LOOK_EVERY)
    }

    /// Returns how many threads should decode from now on, if not as many as so far.
    pub fn look(&mut self, look: Look) -> Option<u32> {
        let last = self.last.replace(look)?;
        let time = look.at.saturating_sub(last.at);
        if time.is_zero() || time > LONGEST_LOOK || look.cores != last.cores {
            return None;
        }
        let others = look.busy.saturating_sub(last.busy).saturating_sub(look.own.saturating_sub(last.own));
        let free = f64::from(look.cores) - others.as_secs_f64() / time.as_secs_f64();
        self.crowded = if free < f64::from(self.now) - CROWDED { self.crowded + 1 } else { 0 };
        self.roomy = if free > f64::from(self.now + 1) - ROOMY { self.roomy + 1 } else { 0 };
        let is_sure = self.crowded >= LOOKS_CROWDED || self.roomy >= LOOKS_ROOMY;
        if !is_sure || self.changed.is_some_and(|changed| look.at.saturating_sub(changed) < SETTLES_FOR) {
            return None;
        }
        let better = (1..=self.most).rev().find(|&threads| free > f64::from(threads) - 0.5).unwrap_or(1);
        if better == self.now {
            return None;
        }
        (self.now, self.changed, self.crowded, self.roomy) = (better, Some(look.at), 0, 0);
        Some(better)
    }
}

/// What the kernel tells now; `None` where it does not.
#[cfg(target_os = "linux")]
pub fn look_now(at: Duration) -> Option<Look> {
    let mine = rustix::thread::sched_getaffinity(None).ok()?;
    let (busy, cores) = busy_time(&std::fs::read_to_string("/proc/stat").ok()?, |core| {
        core < rustix::thread::CpuSet::MAX_CPU && mine.is_set(core)
    })?;
    let own = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let own = Duration::new(u64::try_from(own.tv_sec).ok()?, u32::try_from(own.tv_nsec).ok()?);
    Some(Look { at, busy, own, cores })
}

#[cfg(not(target_os = "linux"))]
pub fn look_now(_at: Duration) -> Option<Look> {
    None
}

/// Of the cores that count, out of `/proc/stat`: time at work, and how many there are. Niced work makes way for ours.
#[cfg(target_os = "linux")]
fn busy_time(stat: &str, counts: impl Fn(usize) -> bool) -> Option<(Duration, u32)> {
    /// `USER_HZ`, which is the same on every architecture.
    const TICK_MS: u64 = 10;
    let (mut ticks, mut cores) = (0_u64, 0_u32);
    for line in stat.lines().filter_map(|line| line.strip_prefix("cpu")) {
        let mut fields = line.split_ascii_whitespace();
        // The first line, of all cores together, has no number.
        let Some(core) = fields.next().filter(|_| !line.starts_with(' ')).and_then(|core| core.parse().ok()) else {
            continue;
        };
        if !counts(core) {
            continue;
        }
        let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let &[user, _nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else { return None };
        ticks += user + system + irq + softirq + steal;
        cores += 1;
    }
    (cores > 0).then(|| (Duration::from_millis(ticks.saturating_mul(TICK_MS)), cores))
}

/// Physical cores, at most `available`. Without topology files `available` is the answer.
pub fn physical_cores() -> u32 {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let distinct = distinct_cores(&sibling_lists(Path::new("/sys/devices/system/cpu")));
    let cores = if distinct == 0 { available } else { distinct.min(available) };
    u32::try_from(cores).unwrap_or(1).max(1)
}

/// Each logical CPU names all CPUs of its core, itself included: as many different lists, as many cores.
fn distinct_cores(lists: &[String]) -> usize {
    lists.iter().map(|list| list.trim()).filter(|list| !list.is_empty()).collect::<BTreeSet<_>>().len()
}

fn sibling_lists(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let lists = entries.flatten().map(|entry| entry.path().join("topology/thread_siblings_list"));
    lists.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_threads_of_one_core_count_once() {
        let lists = ["0,4\n", "1,5", "0,4", "1,5", ""].map(str::to_owned);
        assert_eq!(distinct_cores(&lists), 2);
    }

    #[test]
    fn this_machine_has_at_least_one_core() {
        assert!(physical_cores() >= 1);
    }

    /// Looks every quarter of a second at a machine on which others use so many cores. Returns the changes and when.
    fn follow(crew: &mut Crew, cores: u32, start: f64, others: &[f64]) -> Vec<(f64, u32)> {
        let quarter = 0.25;
        let mut seen = Look { at: Duration::from_secs_f64(start), cores, ..Look::default() };
        let mut changes = Vec::new();
        crew.look(seen);
        for used in others {
            seen.at += Duration::from_secs_f64(quarter);
            let own = f64::from(crew.now).min(f64::from(cores) - used).max(0.0);
            seen.own += Duration::from_secs_f64(own * quarter);
            seen.busy += Duration::from_secs_f64((own + used) * quarter);
            changes.extend(crew.look(seen).map(|threads| (seen.at.as_secs_f64(), threads)));
        }
        changes
    }

    #[test]
    fn a_busy_neighbour_takes_one_thread_away_and_gives_it_back_when_it_has_gone() {
        let mut crew = Crew::new(2);
        let others = [[0.1; 8].as_slice(), &[0.9; 40], &[0.0; 20]].concat();
        assert_eq!(follow(&mut crew, 2, 0.0, &others), [(2.5, 1), (14.0, 2)]);
    }

    #[test]
    fn moments_and_small_work_change_nothing() {
        let mut crew = Crew::new(2);
        let moments = [0.9, 0.0, 0.0, 1.0, 0.1, 0.5, 0.5, 0.5, 0.9, 0.3].repeat(10);
        assert_eq!(follow(&mut crew, 2, 0.0, &moments), []);
    }

    #[test]
    fn cores_to_spare_need_no_change() {
        let mut crew = Crew::new(4);
        assert_eq!(follow(&mut crew, 8, 0.0, &[3.9; 40]), [], "four are left");
        assert_eq!(follow(&mut crew, 8, 20.0, &[6.0; 8]), [(20.5, 2)]);
    }

    #[test]
    fn changes_are_seconds_apart_and_one_thread_always_stays() {
        let mut crew = Crew::new(4);
        let others = [[3.0; 3].as_slice(), &[9.0; 4], &[0.0; 12], &[4.0; 6]].concat().repeat(20);
        let changes = follow(&mut crew, 4, 0.0, &others);
        assert!(changes.windows(2).all(|pair| pair[1].0 - pair[0].0 >= SETTLES_FOR.as_secs_f64()), "{changes:?}");
        assert!(changes.len() > 4 && changes.iter().all(|(_, threads)| (1..=4).contains(threads)), "{changes:?}");
    }

    #[test]
    fn a_look_after_a_long_pause_says_nothing() {
        let mut crew = Crew::new(2);
        let look = |at, busy| Look {
            at: Duration::from_secs(at),
            busy: Duration::from_secs(busy),
            cores: 2,
            own: Duration::ZERO,
        };
        assert_eq!([crew.look(look(0, 0)), crew.look(look(10, 20)), crew.look(look(20, 40))], [None; 3]);
        assert!(!crew.is_due(Duration::from_millis(20_100)) && crew.is_due(Duration::from_millis(20_250)));
        assert!(!Crew::new(1).is_due(Duration::from_secs(9)), "one thread has nothing to give");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn busy_time_is_that_of_our_cores_without_niced_work() {
        let stat = "cpu  100 9 10 900 5 1 1 3 0 0\ncpu0 50 9 5 400 5 1 0 3 0 0\ncpu1 40 0 5 500 0 0 1 0 0 0\nintr 5\n";
        assert_eq!(busy_time(stat, |_| true), Some((Duration::from_millis(1050), 2)));
        assert_eq!(busy_time(stat, |core| core == 0), Some((Duration::from_millis(590), 1)));
        assert_eq!(busy_time(stat, |_| false), None);
        assert_eq!(busy_time("cpu0 1 2\n", |_| true), None);
        assert!(look_now(Duration::ZERO).is_some_and(|look| look.cores > 0));
    }
}
