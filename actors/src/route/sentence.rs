//! A decision as one readable sentence. Shows no prompt; decides nothing.

use super::{
    facts::{Ask, LocalFacts, Surroundings},
    plan::Candidate,
    policy::{Standing, Tier},
};
use crate::{domain::ModelChoice, jobs::TargetKey};

pub(super) fn sentence(candidates: &[Candidate], tier: Tier, ask: Ask<'_>, around: Surroundings<'_>) -> String {
    let Some(first) = candidates.first() else { return String::new() };
    let state = match first.key {
        TargetKey::Gpu { slot, .. } => {
            let state = around.locals.iter().find(|l| l.slot == slot).map_or("unknown", |l| l.view.state.name());
            format!("{} is {state}, expected wait {} ms", first.target, first.wait.as_millis())
        }
        TargetKey::Cloud { .. } => {
            let because = passed_over(candidates, ask, around);
            let ms = first.first_token.as_millis();
            format!("{because}{} at {} answers, expected first token {ms} ms", first.model, first.target)
        }
    };
    let kept = if tier.complexity == ask.grade.complexity {
        String::new()
    } else {
        format!(", in a conversation that was {}", tier.complexity)
    };
    format!("{} (p={:.2}){kept}, {}: {state}", ask.grade.complexity, ask.grade.confidence, first.reason.label())
}

/// Why no local target comes first although one is there.
fn passed_over(candidates: &[Candidate], ask: Ask<'_>, around: Surroundings<'_>) -> String {
    let Some(local) = around.locals.iter().find(|_| ask.request.model == ModelChoice::Auto) else {
        return String::new();
    };
    let name = &local.name;
    if !local.view.serving {
        return format!("{name} is {}, so ", local.view.state.name());
    }
    let missing = local.abilities.missing(ask.request.needs);
    if missing.any() {
        return format!("{name} does not take {}, so ", missing.field_names().join(", "));
    }
    let held_back = candidates.iter().find(|candidate| {
        matches!(candidate.key, TargetKey::Gpu { .. }) && !matches!(candidate.standing, Standing::Ready)
    });
    held_back.map(|candidate| held_back_because(candidate, local)).unwrap_or_default()
}

fn held_back_because(candidate: &Candidate, local: &LocalFacts) -> String {
    let name = &candidate.target;
    match candidate.standing {
        Standing::Slow => format!("{name} would take {} ms to the first token, so ", candidate.first_token.as_millis()),
        Standing::Crowded => {
            format!("{name} keeps its last places for easier requests ({:.0} % taken), so ", candidate.load * 100.0)
        }
        Standing::Poor => format!("{name} is in poor health, so "),
        Standing::Waiting => format!("{name} is {}, so ", local.view.state.name()),
        Standing::Ready => String::new(),
    }
}
