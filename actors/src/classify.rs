//! How hard a request is: a pure verdict with its confidence and the signals behind it. `learned` reads trained weights
//! that are compiled in, `keywords` is the published rule. Nothing here holds state.

pub mod cuts;
pub mod keywords;
pub mod learned;
pub mod measure;
pub mod sketch;
pub mod structure;
pub mod weights;
pub mod window;

use crate::domain::{ChatRequest, Complexity, ModelChoice};
use std::fmt;

pub use cuts::Cuts;
pub use learned::by_weights;

/// What a request was graded as, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    pub complexity: Complexity,
    /// 0 to 1; higher = needs the cloud.
    pub score: f64,
    /// Calibrated probability that a local model fails; the keyword rule has none.
    pub fails: Option<f64>,
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

    /// The published figures; the learned classifier has its own for [`Self::Rule`].
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
    /// The calibrated probability that a local model fails.
    LocalFails { percent: u8 },
    /// Something beside the text that speaks for a harder request.
    Hint(&'static str),
    /// A count of the text that makes it look harder or easier than most.
    Count { name: &'static str, harder: bool },
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyword(word) => write!(f, "contains \"{word}\""),
            Self::EffectiveLength(length) => write!(f, "effective length {length}"),
            Self::LocalFails { percent } => write!(f, "a local model fails with {percent} %"),
            Self::Hint(name) => f.write_str(name),
            Self::Count { name, harder: true } => write!(f, "{name}: harder"),
            Self::Count { name, harder: false } => write!(f, "{name}: easier"),
        }
    }
}

/// Grades a request by the published keyword rule.
pub fn by_keywords(request: &ChatRequest) -> Classification {
    let verdict = keywords::judge(request.last_user_text(), request.earlier_messages());
    let basis = Basis::of(&request.model, request.budget_sensitive, verdict.complexity);
    Classification {
        complexity: verdict.complexity,
        score: keyword_score(verdict.complexity),
        fails: None,
        confidence: basis.confidence(),
        basis,
        signals: vec![verdict.signal],
    }
}

/// The keyword rule has no score of its own: its four grades, evenly spread.
pub fn keyword_score(complexity: Complexity) -> f64 {
    match complexity {
        Complexity::Trivial => 0.125,
        Complexity::Moderate => 0.375,
        Complexity::Complex => 0.625,
        Complexity::Premium => 0.875,
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
