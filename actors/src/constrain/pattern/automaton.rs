//! A pattern that can be read in several ways at once, as states of which one holds at a time.
//!
//! llama.cpp keeps every way in which the text so far may be read, and tries each of them on every token: a pattern of 13
//! bytes can cost it minutes. Here the ways are joined beforehand, as far as the bounds below go.

use super::{
    super::{charset::CharSet, gbnf::Rules},
    expr::{Expr, char_spelled},
};
use std::collections::{BTreeSet, HashMap};

/// Places of an expression once its repetitions are written out.
const MAX_PLACES: usize = 4096;
const MAX_STATES: usize = 1024;
/// What llama.cpp does for the next few characters at most, in comparisons of places.
const MAX_COST: u64 = 1_000_000;
/// Characters of a token that are looked ahead.
const LOOK_AHEAD: usize = 5;

/// Why a pattern has no automaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooAmbiguous;

enum Place {
    Reads { set: usize, next: usize },
    Forks(Vec<usize>),
    Ends,
}

struct Places {
    places: Vec<Place>,
    sets: Vec<CharSet>,
}

impl Places {
    fn of(expr: &Expr) -> Result<(Self, usize), TooAmbiguous> {
        let mut all = Self { places: vec![Place::Ends], sets: Vec::new() };
        let start = all.before(expr, 0)?;
        Ok((all, start))
    }

    fn add(&mut self, place: Place) -> Result<usize, TooAmbiguous> {
        if self.places.len() >= MAX_PLACES {
            return Err(TooAmbiguous);
        }
        self.places.push(place);
        Ok(self.places.len() - 1)
    }

    /// The place from which `expr` is read and `next` is reached.
    fn before(&mut self, expr: &Expr, next: usize) -> Result<usize, TooAmbiguous> {
        match expr {
            Expr::Set(set) => {
                let known = self.sets.iter().position(|known| known == set);
                let set = known.unwrap_or_else(|| {
                    self.sets.push(set.clone());
                    self.sets.len() - 1
                });
                self.add(Place::Reads { set, next })
            }
            Expr::Char => self.before(&char_spelled(), next),
            Expr::Sequence(parts) => parts.iter().rev().try_fold(next, |next, part| self.before(part, next)),
            Expr::Any(alternatives) => {
                let ways = alternatives.iter().map(|part| self.before(part, next)).collect::<Result<_, _>>()?;
                self.add(Place::Forks(ways))
            }
            Expr::Repeat(item, least, most) => self.before_repeated(item, *least, *most, next),
        }
    }

    fn before_repeated(
        &mut self,
        item: &Expr,
        least: usize,
        most: Option<usize>,
        next: usize,
    ) -> Result<usize, TooAmbiguous> {
        let mut at = next;
        match most {
            None => {
                let fork = self.add(Place::Forks(Vec::new()))?;
                let again = self.before(item, fork)?;
                if let Some(place) = self.places.get_mut(fork) {
                    *place = Place::Forks(vec![again, next]);
                }
                at = fork;
            }
            Some(most) => {
                for _ in least..most {
                    let once = self.before(item, at)?;
                    at = self.add(Place::Forks(vec![once, next]))?;
                }
            }
        }
        (0..least).try_fold(at, |at, _| self.before(item, at))
    }

    /// Where the text may be once it is at one of `from`: places that read, and the end.
    fn reached(&self, from: impl IntoIterator<Item = usize>, work: &mut usize) -> Vec<usize> {
        let mut seen: BTreeSet<usize> = from.into_iter().collect();
        let mut todo: Vec<usize> = seen.iter().copied().collect();
        while let Some(at) = todo.pop() {
            *work += 1;
            if let Some(Place::Forks(ways)) = self.places.get(at) {
                todo.extend(ways.iter().copied().filter(|way| seen.insert(*way)));
            }
        }
        seen.into_iter().filter(|at| !matches!(self.places.get(*at), Some(Place::Forks(_)))).collect()
    }
}

#[derive(Default)]
struct State {
    ends: bool,
    moves: Vec<(CharSet, usize)>,
}

/// States of which one holds at a time; the first is the start.
pub(super) struct Automaton(Vec<State>);

impl Automaton {
    /// `work` is what the building may still cost, in looks at places; it is shared by all patterns of a schema.
    pub(super) fn of(expr: &Expr, work: &mut usize) -> Result<Self, TooAmbiguous> {
        let (places, start) = Places::of(expr)?;
        let kinds = kinds(&places.sets);
        let mut spent = 0;
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        let begin = places.reached([start], &mut spent);
        known.insert(begin.clone(), 0);
        let mut waiting = vec![begin];
        let mut states = Vec::new();
        while let Some(held) = waiting.get(states.len()).cloned() {
            let mut moves: Vec<(CharSet, usize)> = Vec::new();
            for (kind, of_sets) in &kinds {
                let next: Vec<usize> = held.iter().filter_map(|at| places.read(*at, of_sets)).collect();
                spent += held.len();
                if next.is_empty() {
                    continue;
                }
                let reached = places.reached(next, &mut spent);
                let fresh = known.len();
                let to = *known.entry(reached).or_insert_with_key(|reached| {
                    waiting.push(reached.clone());
                    fresh
                });
                match moves.iter_mut().find(|(_, known)| *known == to) {
                    Some((set, _)) => *set = set.clone().or(kind.clone()),
                    None => moves.push((kind.clone(), to)),
                }
            }
            states.push(State { ends: held.contains(&0), moves });
            if known.len() > MAX_STATES || spent > *work {
                *work = work.saturating_sub(spent);
                return Err(TooAmbiguous);
            }
        }
        *work = work.saturating_sub(spent);
        let automaton = Self(states);
        if automaton.cost() > MAX_COST { Err(TooAmbiguous) } else { Ok(automaton) }
    }

    /// Of the most expensive state: how many ways the next characters may go, each weighed by what llama.cpp compares.
    fn cost(&self) -> u64 {
        let width = |state: &State| (state.moves.len() + usize::from(state.ends)) as u64;
        let mut costs = vec![0_u64; self.0.len()];
        for _ in 0..LOOK_AHEAD {
            let next = |state: &State| {
                let ahead = state.moves.iter().filter_map(|(_, to)| costs.get(*to));
                ahead.fold(width(state).pow(2), |sum, cost| sum.saturating_add(*cost))
            };
            costs = self.0.iter().map(next).collect();
        }
        costs.into_iter().max().unwrap_or(0)
    }

    /// A rule for each state; the name of the first.
    pub(super) fn write(&self, rules: &mut Rules) -> String {
        let names: Vec<String> = self.0.iter().map(|_| rules.reserve()).collect();
        for (state, name) in self.0.iter().zip(&names) {
            let mut ways: Vec<String> = Vec::with_capacity(state.moves.len() + 1);
            if state.ends {
                ways.push(r#""""#.to_owned());
            }
            for (set, to) in &state.moves {
                let is_over = self.0.get(*to).is_some_and(|state| state.moves.is_empty());
                let next = names.get(*to).filter(|_| !is_over).map_or("", String::as_str);
                ways.push(format!("{} {next}", set.class()).trim_end().to_owned());
            }
            rules.define(name, &ways.join(" | "));
        }
        names.into_iter().next().unwrap_or_default()
    }
}

impl Places {
    /// Where `at` leads with a character that is in these sets.
    fn read(&self, at: usize, of_sets: &[bool]) -> Option<usize> {
        match self.places.get(at)? {
            Place::Reads { set, next } => of_sets.get(*set).copied().unwrap_or(false).then_some(*next),
            _ => None,
        }
    }
}

/// Characters that are in the same of these sets, with which those are. Characters in none are left out.
fn kinds(sets: &[CharSet]) -> Vec<(CharSet, Vec<bool>)> {
    let mut kinds: HashMap<Vec<bool>, CharSet> = HashMap::new();
    for piece in CharSet::pieces(sets) {
        let of_sets: Vec<bool> = sets.iter().map(|set| set.meets(&piece)).collect();
        match kinds.get_mut(&of_sets) {
            Some(kind) => *kind = kind.clone().or(piece),
            None => drop(kinds.insert(of_sets, piece)),
        }
    }
    let mut kinds: Vec<(CharSet, Vec<bool>)> = kinds.into_iter().map(|(of_sets, kind)| (kind, of_sets)).collect();
    kinds.sort_by_key(|(kind, _)| kind.class());
    kinds
}
