//! The learned classifier: sketch, weights, cut points. Pure, and the same for the same request everywhere.
//!
//! Two questions, two heads: the grade says how hard a request is (how probably a local model fails), the score ranks what
//! gains most from the cloud. A hard request that the cloud fails as well has a high grade and a middling score.

use super::{
    Basis, Classification, Signal,
    cuts::Cuts,
    sketch::{DENSE_NAMES, sketch},
    structure::asked,
    weights::{Opinion, Weights},
};
use crate::domain::{ChatRequest, Complexity};

/// Counts named as reasons.
const REASONS: usize = 3;

/// The opinion on a bare text, for files of prompts.
pub fn opinion(prompt: &str) -> Opinion {
    Weights::built_in().opinion(&sketch(prompt), 0.0)
}

/// Grades a request by the trained weights.
pub fn by_weights(request: &ChatRequest, cuts: Cuts) -> Classification {
    let weights = Weights::built_in();
    let asked = asked(request);
    let sketch = sketch(asked.text);
    let opinion = weights.opinion(&sketch, asked.shift());
    let complexity = cuts.grade(opinion.fails);
    let basis = Basis::of(&request.model, request.budget_sensitive, complexity);
    let mut signals = vec![Signal::LocalFails { percent: percent(opinion.fails) }];
    signals.extend(asked.hints.iter().map(|hint| Signal::Hint(hint.name)));
    signals.extend(weights.reasons(&sketch, REASONS).into_iter().filter_map(|(at, harder)| {
        let name = DENSE_NAMES.get(at)?;
        Some(Signal::Count { name, harder })
    }));
    let confidence = match basis {
        Basis::Rule => confidence(complexity, opinion.fails),
        published => published.confidence(),
    };
    Classification { complexity, score: opinion.score, fails: Some(opinion.fails), confidence, basis, signals }
}

/// How probable it is that the grade's side, local or cloud, is the right one.
fn confidence(complexity: Complexity, fails: f64) -> f64 {
    match complexity {
        Complexity::Trivial | Complexity::Moderate => 1.0 - fails,
        Complexity::Complex | Complexity::Premium => fails,
    }
}

fn percent(share: f64) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 100")]
    let percent = (share * 100.0).round().clamp(0.0, 100.0) as u8;
    percent
}

#[cfg(test)]
mod tests;
