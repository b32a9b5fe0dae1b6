//! What llama.cpp does with a grammar, as a model of its cost: each way in which the text so far can be read is a stack of
//! its own, and ways that met again are looked at as often as they were reached.

use super::derive::{Atom, Grammar, Sequence};
use std::collections::HashMap;

/// What is still to be read, nearest last: the place in a rule that was written out.
type Stack = Vec<(usize, usize)>;

pub(super) struct Ways {
    /// Sequences of parts, by number. Alternatives of a rule are several.
    sequences: Vec<Vec<Part>>,
    rules: Vec<Vec<usize>>,
    start: usize,
}

#[derive(Clone)]
enum Part {
    Class { ranges: Vec<(u32, u32)>, is_negated: bool },
    Rule(usize),
}

impl Part {
    fn takes(&self, char: char) -> bool {
        match self {
            Self::Class { ranges, is_negated } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(char))) != *is_negated
            }
            Self::Rule(_) => false,
        }
    }
}

impl Ways {
    pub(super) fn of(text: &str) -> Self {
        let grammar = Grammar::read_unbounded(text);
        let mut ways = Self { sequences: Vec::new(), rules: Vec::new(), start: 0 };
        let names: HashMap<&str, usize> = grammar
            .rules()
            .map(|(name, _)| {
                ways.rules.push(Vec::new());
                (name, ways.rules.len() - 1)
            })
            .collect();
        for (name, body) in grammar.rules() {
            ways.rules[names[name]] = ways.add_all(body, &names);
        }
        ways.start = names["root"];
        ways
    }

    fn add_all(&mut self, body: &[Sequence], names: &HashMap<&str, usize>) -> Vec<usize> {
        body.iter()
            .map(|sequence| {
                let mut parts = Vec::new();
                for (atom, least, most) in sequence {
                    let once = self.once(atom, names);
                    (0..*least).for_each(|_| parts.extend(once.iter().cloned()));
                    if *most == usize::MAX {
                        let again = self.rules.len();
                        self.rules.push(Vec::new());
                        let more: Vec<Part> = once.iter().cloned().chain([Part::Rule(again)]).collect();
                        self.rules[again] = vec![self.add(more), self.add(Vec::new())];
                        parts.push(Part::Rule(again));
                    } else if most > least {
                        let mut rest: Option<usize> = None;
                        for _ in *least..*most {
                            let more = once.iter().cloned().chain(rest.map(Part::Rule)).collect();
                            let alternatives = vec![self.add(more), self.add(Vec::new())];
                            self.rules.push(alternatives);
                            rest = Some(self.rules.len() - 1);
                        }
                        parts.extend(rest.map(Part::Rule));
                    }
                }
                self.add(parts)
            })
            .collect()
    }

    fn add(&mut self, parts: Vec<Part>) -> usize {
        self.sequences.push(parts);
        self.sequences.len() - 1
    }

    fn once(&mut self, atom: &Atom, names: &HashMap<&str, usize>) -> Vec<Part> {
        match atom {
            Atom::Text(text) => {
                let one = |char| Part::Class { ranges: vec![(u32::from(char), u32::from(char))], is_negated: false };
                text.chars().map(one).collect()
            }
            Atom::Class { ranges, is_negated } => {
                vec![Part::Class { ranges: ranges.clone(), is_negated: *is_negated }]
            }
            Atom::Rule(name) => vec![Part::Rule(names[name.as_str()])],
            Atom::Group(group) => {
                let alternatives = self.add_all(group, names);
                self.rules.push(alternatives);
                vec![Part::Rule(self.rules.len() - 1)]
            }
        }
    }

    /// Every stack that `stack` may stand for, with a character on top.
    fn opened(&self, stack: Stack) -> Vec<Stack> {
        let (mut todo, mut seen, mut open) = (vec![stack], std::collections::HashSet::new(), Vec::new());
        while let Some(stack) = todo.pop() {
            if !seen.insert(stack.clone()) {
                continue;
            }
            let Some(&(sequence, at)) = stack.last() else { continue };
            match &self.sequences[sequence][at] {
                Part::Class { .. } => open.push(stack),
                Part::Rule(rule) => {
                    for alternative in &self.rules[*rule] {
                        let mut next = stack.clone();
                        self.step(&mut next);
                        if !self.sequences[*alternative].is_empty() {
                            next.push((*alternative, 0));
                        }
                        todo.push(next);
                    }
                }
            }
        }
        open
    }

    /// Past the topmost part.
    fn step(&self, stack: &mut Stack) {
        let Some((sequence, at)) = stack.pop() else { return };
        if at + 1 < self.sequences[sequence].len() {
            stack.push((sequence, at + 1));
        }
    }

    /// The most ways at once over texts of `length` characters, each of which keeps as many open as possible.
    pub(super) fn most(&self, length: usize) -> usize {
        let mut open: Vec<Stack> = Vec::new();
        for alternative in &self.rules[self.start] {
            open.extend(self.opened(vec![(*alternative, 0)]));
        }
        let mut most = open.len();
        for _ in 0..length {
            let after = |char: char| -> Vec<Stack> {
                let read = open.iter().filter(|stack| {
                    let (sequence, at) = stack[stack.len() - 1];
                    self.sequences[sequence][at].takes(char)
                });
                read.flat_map(|stack| {
                    let mut next = stack.clone();
                    self.step(&mut next);
                    self.opened(next)
                })
                .take(20_000)
                .collect()
            };
            let next = ['a', 'b', '"', '[', '{', ',', 'n', 'u', 'l', ']', ' '].map(after);
            open = next.into_iter().max_by_key(Vec::len).unwrap_or_default();
            most = most.max(open.len());
        }
        most
    }
}
