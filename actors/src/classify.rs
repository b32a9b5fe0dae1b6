//! How hard a request is: a pure verdict with its confidence and the signals behind it. Holds no weights and no state;
//! `keywords` is the published rule.

pub mod keywords;

use crate::domain::{ChatRequest, Complexity, ModelChoice};
use std::fmt;

/// What a request was graded as, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    pub complexity: Complexity,
    /// How firmly the target is decided, 0 to 1. See [`Basis`].
    pub confidence: f64,
    pub basis: Basis,
    pub signals: Vec<Signal>,
}

/// What decides the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The request names a model.
    NamedModel,
    /// The request asks for any local target.
    NamedLocal,
    /// `budget_sensitive` keeps an easy request local, whatever the rule prefers.
    BudgetSensitive,
    /// The rule of the complexity.
    Rule,
}

impl Basis {
    pub(crate) fn of(model: &ModelChoice, budget_sensitive: bool, complexity: Complexity) -> Self {
        match model {
            ModelChoice::Named(_) => Self::NamedModel,
            ModelChoice::Local => Self::NamedLocal,
            ModelChoice::Auto if budget_sensitive && complexity <= Complexity::Moderate => Self::BudgetSensitive,
            ModelChoice::Auto => Self::Rule,
        }
    }

    /// The published figures.
    pub const fn confidence(self) -> f64 {
        match self {
            Self::NamedModel => 0.95,
            Self::NamedLocal => 0.9,
            Self::BudgetSensitive => 0.85,
            Self::Rule => 0.8,
        }
    }
}

/// A reason for a verdict. `Display` never shows the prompt: a matched word is one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The prompt contains this word of a list.
    Keyword(&'static str),
    /// Words of the prompt + 50 for each earlier message.
    EffectiveLength(u64),
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyword(word) => write!(f, "contains \"{word}\""),
            Self::EffectiveLength(length) => write!(f, "effective length {length}"),
        }
    }
}

/// Grades a request by the published keyword rule.
pub fn by_keywords(request: &ChatRequest) -> Classification {
    let verdict = keywords::judge(request.last_user_text(), request.earlier_messages());
    let basis = Basis::of(&request.model, request.budget_sensitive, verdict.complexity);
    Classification {
        complexity: verdict.complexity,
        confidence: basis.confidence(),
        basis,
        signals: vec![verdict.signal],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ModelName;

    #[test]
    fn the_confidence_says_what_decided() {
        let named = ModelChoice::Named(ModelName::from("gpt-4.1"));
        for (model, budget_sensitive, complexity, confidence) in [
            (&named, true, Complexity::Trivial, 0.95),
            (&ModelChoice::Local, true, Complexity::Trivial, 0.9),
            (&ModelChoice::Auto, true, Complexity::Trivial, 0.85),
            (&ModelChoice::Auto, true, Complexity::Moderate, 0.85),
            (&ModelChoice::Auto, true, Complexity::Complex, 0.8),
            (&ModelChoice::Auto, false, Complexity::Trivial, 0.8),
        ] {
            assert_eq!(
                Basis::of(model, budget_sensitive, complexity).confidence(),
                confidence,
                "{model:?} {complexity}"
            );
        }
    }
}
