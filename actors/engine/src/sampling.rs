//! Which samplers a job needs, in which order, checked before any of them is built.
//!
//! Pure: the llama.cpp objects are built from the plan by the shell. The order is llama.cpp's own: penalties, top-k,
//! top-p, min-p, temperature, then the draw.

use crate::{
    backend::Token,
    grammar::{self, BadGrammar},
};
use spillway_actors::gpu::frame::{JobSpec, MAX_LOGIT_BIAS, MAX_TOP_LOGPROBS, Sampling};

/// Logits divided by less than this leave the range of floats, and nothing but the most likely token has a chance long
/// before.
const GREEDY_BELOW: f32 = 1e-4;

/// One stage that narrows or reshapes the candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// Over all generated tokens of the job, replayed ones included.
    Penalties {
        repeat: f32,
        frequency: f32,
        presence: f32,
    },
    TopK(i32),
    TopP(f32),
    MinP(f32),
    Temperature(f32),
}

/// How the token is taken from what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    Greedy,
    /// `None`: the shell chooses a random seed.
    Draw {
        seed: Option<u32>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct SamplingPlan {
    /// Added to the logits before anything else.
    pub bias: Vec<(Token, f32)>,
    pub stages: Vec<Stage>,
    pub pick: Pick,
    /// Checked, not yet compiled.
    pub grammar: Option<String>,
    /// Likelihoods wanted, with this many alternatives.
    pub logprobs: Option<usize>,
}

impl SamplingPlan {
    /// Greedy with nothing before it: the shell needs no candidate list, only the largest logit.
    pub fn is_argmax(&self) -> bool {
        self.stages.is_empty() && self.pick == Pick::Greedy
    }

    /// Temperature and seed of a plan that has no more to it.
    pub fn plain_draw(&self) -> Option<(f32, Option<u32>)> {
        let Pick::Draw { seed } = self.pick else { return None };
        let temperature = match self.stages.as_slice() {
            [] => 1.0,
            [Stage::Temperature(temperature)] => *temperature,
            _ => return None,
        };
        self.grammar.is_none().then_some((temperature, seed))
    }

    /// The same request is meant to give the same text.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.pick, Pick::Draw { seed: None })
    }
}

/// Why a job cannot be sampled as it asks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadSampling {
    /// The text names the parameter and its value.
    #[error("{name} must be {must}, not {value}")]
    Parameter { name: &'static str, must: &'static str, value: f32 },
    #[error("logit_bias may have at most {MAX_LOGIT_BIAS} entries")]
    TooManyBiases,
    #[error("logit_bias names a token id outside the model's vocabulary")]
    UnknownBias,
    #[error("top_logprobs must be at most {MAX_TOP_LOGPROBS}")]
    TooManyLogprobs,
    #[error(transparent)]
    Grammar(#[from] BadGrammar),
}

impl BadSampling {
    /// The request's field at fault.
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::Parameter { name, .. } => Some(*name),
            Self::TooManyBiases | Self::UnknownBias => Some("logit_bias"),
            Self::TooManyLogprobs => Some("top_logprobs"),
            // Which field it was made from is the gateway's to know.
            Self::Grammar(_) => None,
        }
    }
}

/// Refuses what is outside its range and leaves out the stages that would change nothing.
pub fn plan(spec: &JobSpec, vocab: Token) -> Result<SamplingPlan, BadSampling> {
    check(&spec.sampling)?;
    check_bias(&spec.logit_bias, vocab)?;
    if spec.logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(BadSampling::TooManyLogprobs);
    }
    if let Some(grammar) = &spec.grammar {
        grammar::check(grammar)?;
    }
    let (stages, pick) = stages(&spec.sampling);
    Ok(SamplingPlan {
        bias: spec.logit_bias.clone(),
        stages,
        pick,
        grammar: spec.grammar.clone(),
        logprobs: spec.logprobs.map(usize::from),
    })
}

fn stages(sampling: &Sampling) -> (Vec<Stage>, Pick) {
    let greedy = sampling.temperature < GREEDY_BELOW;
    let mut stages = Vec::new();
    let (repeat, frequency, presence) =
        (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty);
    if repeat != 1.0 || frequency != 0.0 || presence != 0.0 {
        stages.push(Stage::Penalties { repeat, frequency, presence });
    }
    if greedy {
        // The most likely token survives every filter, so none is needed.
        return (stages, Pick::Greedy);
    }
    if sampling.top_k > 0 {
        stages.push(Stage::TopK(sampling.top_k));
    }
    if sampling.top_p < 1.0 {
        stages.push(Stage::TopP(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        stages.push(Stage::MinP(sampling.min_p));
    }
    if sampling.temperature != 1.0 {
        stages.push(Stage::Temperature(sampling.temperature));
    }
    (stages, Pick::Draw { seed: sampling.seed })
}

fn check_bias(bias: &[(Token, f32)], vocab: Token) -> Result<(), BadSampling> {
    if bias.len() > MAX_LOGIT_BIAS {
        return Err(BadSampling::TooManyBiases);
    }
    if !bias.iter().all(|(token, _)| (0..vocab).contains(token)) {
        return Err(BadSampling::UnknownBias);
    }
    match bias.iter().find(|(_, value)| !(-100.0..=100.0).contains(value)) {
        Some(&(_, value)) => Err(BadSampling::Parameter { name: "logit_bias", must: "between -100 and 100", value }),
        None => Ok(()),
    }
}

fn check(sampling: &Sampling) -> Result<(), BadSampling> {
    // NaN fails every comparison, so it is refused by each of these.
    let rules = [
        ("temperature", "between 0 and 100", sampling.temperature, (0.0..=100.0).contains(&sampling.temperature)),
        ("top_p", "between 0 and 1", sampling.top_p, (0.0..=1.0).contains(&sampling.top_p)),
        ("min_p", "between 0 and 1", sampling.min_p, (0.0..=1.0).contains(&sampling.min_p)),
        ("presence_penalty", "finite", sampling.presence_penalty, sampling.presence_penalty.is_finite()),
        ("frequency_penalty", "finite", sampling.frequency_penalty, sampling.frequency_penalty.is_finite()),
        (
            "repeat_penalty",
            "above 0 and at most 100",
            sampling.repeat_penalty,
            sampling.repeat_penalty > 0.0 && sampling.repeat_penalty <= 100.0,
        ),
    ];
    match rules.into_iter().find(|(_, _, _, holds)| !holds) {
        Some((name, must, value, _)) => Err(BadSampling::Parameter { name, must, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::counting::spec;

    fn plan(sampling: &Sampling) -> Result<SamplingPlan, BadSampling> {
        super::plan(&JobSpec { sampling: *sampling, ..spec(1, "a", 1) }, 27)
    }

    fn off() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn stages_that_change_nothing_are_left_out() {
        let plan = plan(&off()).unwrap();
        assert_eq!((plan.stages, plan.pick), (vec![], Pick::Draw { seed: None }));
    }

    #[test]
    fn stages_come_in_the_order_of_llama_cpp() {
        let all = Sampling {
            temperature: 0.7,
            top_p: 0.9,
            top_k: 40,
            min_p: 0.05,
            presence_penalty: 0.5,
            seed: Some(3),
            ..off()
        };
        let plan = plan(&all).unwrap();
        let penalties = Stage::Penalties { repeat: 1.0, frequency: 0.0, presence: 0.5 };
        assert_eq!(
            plan.stages,
            [penalties, Stage::TopK(40), Stage::TopP(0.9), Stage::MinP(0.05), Stage::Temperature(0.7)]
        );
        assert_eq!(plan.pick, Pick::Draw { seed: Some(3) });
    }

    #[test]
    fn temperature_zero_is_greedy_whatever_else_is_set() {
        let greedy = Sampling { temperature: 0.0, top_p: 0.1, top_k: 3, seed: Some(1), ..off() };
        assert!(plan(&greedy).unwrap().is_argmax());
        let nearly = Sampling { temperature: 1e-38, ..off() };
        assert!(plan(&nearly).unwrap().is_argmax(), "a value that no division survives");
        let with_penalty = Sampling { temperature: 0.0, repeat_penalty: 1.1, ..off() };
        assert!(!plan(&with_penalty).unwrap().is_argmax());
    }

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        for bad in [
            Sampling { temperature: -1.0, ..off() },
            Sampling { temperature: f32::NAN, ..off() },
            Sampling { top_p: 1.5, ..off() },
            Sampling { min_p: -0.1, ..off() },
            Sampling { presence_penalty: f32::INFINITY, ..off() },
            Sampling { repeat_penalty: 0.0, ..off() },
        ] {
            assert!(plan(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            plan(&Sampling { top_p: 1.5, ..off() }).unwrap_err().to_string(),
            "top_p must be between 0 and 1, not 1.5"
        );
    }

    #[test]
    fn biases_logprobs_and_grammars_out_of_bounds_are_refused() {
        let base = || spec(1, "a", 1);
        let grammar = Some("root ::= a{9999}".to_owned());
        for bad in [
            JobSpec { logit_bias: vec![(27, 1.0)], ..base() },
            JobSpec { logit_bias: vec![(-1, 1.0)], ..base() },
            JobSpec { logit_bias: vec![(1, 100.5)], ..base() },
            JobSpec { logit_bias: vec![(1, f32::NAN)], ..base() },
            JobSpec { logit_bias: vec![(1, 1.0); MAX_LOGIT_BIAS + 1], ..base() },
            JobSpec { logprobs: Some(21), ..base() },
            JobSpec { grammar, ..base() },
        ] {
            assert!(super::plan(&bad, 27).is_err(), "{bad:?}");
        }
        let fine = JobSpec { logit_bias: vec![(26, -100.0)], logprobs: Some(20), ..base() };
        assert_eq!(super::plan(&fine, 27).unwrap().logprobs, Some(20));
    }
}
