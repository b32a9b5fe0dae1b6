//! What is given up when a model does not fit into memory: one reduction for each failure, in a fixed order, never two at
//! once and never the GPU itself. After a healthy time the last reduction is taken back, and if that was too early the
//! next try waits twice as long. Pure: `now` and what is known of the model come in as arguments.

use super::memory::{self, Shape};
use crate::gguf::{Gguf, KvType};
use serde::Serialize;
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;

/// A micro-batch smaller than this saves next to nothing.
const LEAST_UBATCH: u32 = 128;
/// A smaller pool would refuse ordinary prompts.
const LEAST_CONTEXT: u32 = 1024;
/// How often the pool is halved.
const HALVINGS: usize = 2;
/// Longest wait for another climb: the healthy time, doubled this often.
const MAX_DOUBLINGS: u32 = 6;

/// What a model is loaded with, as far as memory is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadPlan {
    pub model_path: PathBuf,
    pub ubatch_tokens: u32,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    pub parallel: u32,
    pub context_tokens: u32,
    /// Most tokens of one request; `None` = the whole pool.
    pub max_request_tokens: Option<u32>,
    /// Sequences get cells of their own only where that takes no more memory.
    pub frugal: bool,
    /// Most tokens of one text that becomes a vector; `None` = none does.
    pub embedding_tokens: Option<u32>,
    /// `None` = as many as fit.
    pub gpu_layers: Option<u32>,
}

impl LoadPlan {
    pub fn shape(&self, layers_on_gpu: u32) -> Shape {
        Shape {
            context_tokens: self.context_tokens,
            parallel: self.parallel,
            max_request_tokens: self.max_request_tokens,
            frugal: self.frugal,
            batch_tokens: None,
            ubatch_tokens: self.ubatch_tokens,
            embedding_tokens: self.embedding_tokens,
            kv_type_k: self.kv_type_k,
            kv_type_v: self.kv_type_v,
            gpu_layers: layers_on_gpu,
        }
    }
}

/// What is given up, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    SmallerBatch,
    QuantisedKv,
    FewerSlots,
    SmallerContext,
    FewerGpuLayers,
    SmallerModel,
    /// Only when it was the vectors that found no memory; the rest goes on as it was.
    NoEmbeddings,
}

impl Reduction {
    /// Of a failure at which the vectors' memory ran out: what costs those who write text no place and no context.
    const FOR_EMBEDDINGS: [Self; 3] = [Self::SmallerBatch, Self::QuantisedKv, Self::NoEmbeddings];
    const ORDER: [Self; 6] = [
        Self::SmallerBatch,
        Self::QuantisedKv,
        Self::FewerSlots,
        Self::SmallerContext,
        Self::FewerGpuLayers,
        Self::SmallerModel,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Self::SmallerBatch => "smaller_batch",
            Self::QuantisedKv => "quantised_kv",
            Self::FewerSlots => "fewer_slots",
            Self::SmallerContext => "smaller_context",
            Self::FewerGpuLayers => "fewer_gpu_layers",
            Self::SmallerModel => "smaller_model",
            Self::NoEmbeddings => "no_embeddings",
        }
    }
}

/// What is known when memory ran out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Layers that were to be on the GPU; 0 on the CPU.
    pub layers_on_gpu: u32,
    /// Whether this model's keys and values can be kept quantised.
    pub kv_can_be_quantised: bool,
    /// Files of smaller quantisations that are here, the largest first.
    pub smaller_models: Vec<PathBuf>,
    /// It was the context for vectors that found none.
    pub embeddings_at_fault: bool,
}

/// Whether the rows of this model's keys and values are whole blocks of the quantised type.
pub fn kv_can_be_quantised(model: &Gguf) -> bool {
    let (key, value) = memory::head_lengths(model);
    key > 0 && value > 0 && key % 32 == 0 && value % 32 == 0
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One rung down: this was given up, and the load is worth another try.
    Down(Reduction),
    /// Nothing is left to give up: the cloud must serve.
    Exhausted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rung {
    reduction: Reduction,
    plan: LoadPlan,
}

#[derive(Debug, Clone)]
pub struct Ladder {
    configured: LoadPlan,
    healthy: Duration,
    /// Reductions in force, the last one on top.
    rungs: Vec<Rung>,
    exhausted: bool,
    serving_since: Option<Instant>,
    /// A reduction was taken back, and whether that holds is not known yet.
    on_trial: bool,
    failed_climbs: u32,
    /// The operator asked for everything back: no healthy time is waited for.
    asked_back: bool,
}

impl Ladder {
    /// `healthy`: how long an engine must have served before a reduction is taken back.
    pub fn new(configured: LoadPlan, healthy: Duration) -> Self {
        Self {
            configured,
            healthy,
            rungs: Vec::new(),
            exhausted: false,
            serving_since: None,
            on_trial: false,
            failed_climbs: 0,
            asked_back: false,
        }
    }

    /// What the next load is made with.
    pub fn plan(&self) -> &LoadPlan {
        self.rungs.last().map_or(&self.configured, |rung| &rung.plan)
    }

    /// 0 = as configured.
    pub fn rung(&self) -> usize {
        self.rungs.len()
    }

    /// Memory ran out, at a load or later.
    pub fn out_of_memory(&mut self, known: &Known, now: Instant) -> Verdict {
        if self.on_trial {
            let held = self.has_been_healthy(now);
            self.failed_climbs = if held { 0 } else { (self.failed_climbs + 1).min(MAX_DOUBLINGS) };
        }
        self.on_trial = false;
        self.asked_back = false;
        self.serving_since = None;
        match self.next(known) {
            Some(rung) => {
                let reduction = rung.reduction;
                self.rungs.push(rung);
                self.exhausted = false;
                Verdict::Down(reduction)
            }
            None => {
                self.exhausted = true;
                Verdict::Exhausted
            }
        }
    }

    /// An engine with this plan has passed its first canary.
    pub fn serves(&mut self, now: Instant) {
        self.exhausted = false;
        self.serving_since = Some(now);
    }

    /// The engine ended for another reason: its healthy time is over.
    pub fn ended(&mut self) {
        self.serving_since = None;
    }

    fn has_been_healthy(&self, now: Instant) -> bool {
        self.serving_since.is_some_and(|since| now.saturating_duration_since(since) >= self.healthy)
    }

    /// When the last reduction may be taken back. `None`: there is none, or no engine serves.
    pub fn climbs_at(&self) -> Option<Instant> {
        let since = self.serving_since.filter(|_| !self.rungs.is_empty())?;
        let wait = if self.asked_back { Duration::ZERO } else { self.healthy.saturating_mul(1 << self.failed_climbs) };
        Some(since + wait)
    }

    /// The operator says that there is memory again (a reload): everything is taken back as soon as an engine serves.
    pub fn ask_back(&mut self) {
        self.asked_back = !self.rungs.is_empty();
        self.failed_climbs = 0;
    }

    /// Takes the last reduction back, if it is time; says which. The engine must be started anew.
    pub fn climb(&mut self, now: Instant) -> Option<Reduction> {
        self.climbs_at().filter(|at| *at <= now)?;
        if self.on_trial {
            // The last climb held.
            self.failed_climbs = 0;
        }
        let rung = self.rungs.pop()?;
        self.asked_back &= !self.rungs.is_empty();
        self.on_trial = true;
        self.serving_since = None;
        Some(rung.reduction)
    }

    fn next(&self, known: &Known) -> Option<Rung> {
        let ordinary = self.rungs.iter().map(|rung| rung.reduction).filter(|one| *one != Reduction::NoEmbeddings);
        let from = ordinary.max().unwrap_or(Reduction::SmallerBatch);
        let order: &[Reduction] =
            if known.embeddings_at_fault { &Reduction::FOR_EMBEDDINGS } else { &Reduction::ORDER };
        let mut open = order.iter().copied().filter(|reduction| *reduction >= from);
        open.find_map(|reduction| Some(Rung { reduction, plan: self.reduced(reduction, known)? }))
    }

    fn taken(&self, reduction: Reduction) -> usize {
        self.rungs.iter().filter(|rung| rung.reduction == reduction).count()
    }

    /// The present plan with one thing less; `None` when that thing is spent.
    fn reduced(&self, reduction: Reduction, known: &Known) -> Option<LoadPlan> {
        let mut plan = self.plan().clone();
        let taken = self.taken(reduction);
        match reduction {
            Reduction::SmallerBatch if taken == 0 && plan.ubatch_tokens > LEAST_UBATCH => {
                plan.ubatch_tokens = (plan.ubatch_tokens / 4).max(LEAST_UBATCH);
            }
            Reduction::QuantisedKv if taken == 0 && known.kv_can_be_quantised => {
                if plan.kv_type_k.is_quantised() && plan.kv_type_v.is_quantised() {
                    return None;
                }
                for kind in [&mut plan.kv_type_k, &mut plan.kv_type_v] {
                    *kind = if kind.is_quantised() { *kind } else { KvType::Q8_0 };
                }
            }
            Reduction::FewerSlots if taken == 0 && plan.parallel > 1 => {
                plan.parallel = plan.parallel.div_ceil(2);
                // Fewer sequences might each have more, and all together too.
                plan.frugal = true;
            }
            Reduction::SmallerContext if taken < HALVINGS && plan.context_tokens / 2 >= LEAST_CONTEXT => {
                plan.context_tokens /= 2;
            }
            Reduction::FewerGpuLayers if taken < 2 => {
                let tried = plan.gpu_layers.map_or(known.layers_on_gpu, |most| most.min(known.layers_on_gpu));
                // Three quarters, then half. Never none: that would be another kind of target.
                let less = if taken == 0 { tried / 4 } else { tried / 3 };
                plan.gpu_layers = Some(tried.checked_sub(less.max(1)).filter(|layers| *layers > 0)?);
            }
            Reduction::NoEmbeddings => {
                plan.embedding_tokens.take()?;
            }
            Reduction::SmallerModel => {
                let path = known.smaller_models.iter().find(|path| !self.has_used(path))?;
                plan.model_path.clone_from(path);
            }
            _ => return None,
        }
        Some(plan)
    }

    fn has_used(&self, path: &PathBuf) -> bool {
        *path == self.configured.model_path || self.rungs.iter().any(|rung| rung.plan.model_path == *path)
    }

    pub fn view(&self) -> LadderView {
        LadderView {
            rung: self.rungs.len(),
            given_up: self.rungs.iter().map(|rung| rung.reduction).collect(),
            exhausted: self.exhausted,
            plan: self.plan().clone(),
            climbs_at: self.climbs_at(),
        }
    }
}

/// The ladder at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LadderView {
    /// 0 = as configured.
    pub rung: usize,
    pub given_up: Vec<Reduction>,
    /// Nothing is left to give up.
    pub exhausted: bool,
    pub plan: LoadPlan,
    /// When the last reduction may be taken back.
    pub climbs_at: Option<Instant>,
}

#[cfg(test)]
mod tests;
