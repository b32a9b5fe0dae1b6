//! What a slot does about memory: remembers what loads have shown, moves its ladder when memory runs out, and takes the
//! last reduction back when the engine has been healthy and nobody uses it.

use super::{EngineSlot, Inner, OwnerId};
use crate::{
    config::LocalConfig,
    gguf::Gguf,
    gpu::{
        frame::{LoadFailure, LoadSpec, LoadedInfo, ToEngine},
        ladder::{Known, LadderView, LoadPlan, Verdict, kv_can_be_quantised},
        life::{Cause, GpuInput, GpuState, Guilt},
        link::Link,
    },
    observe,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What loads have shown of model and device.
#[derive(Debug, Default)]
pub(super) struct Seen {
    known: Known,
    /// It has run on a GPU: it never goes on on the CPU in silence.
    was_on_gpu: bool,
    /// Tests: bytes of the GPU that the CPU plays.
    simulated_memory: Option<u64>,
}

pub(super) fn configured(config: &LocalConfig) -> LoadPlan {
    LoadPlan {
        model_path: config.model_path.clone(),
        ubatch_tokens: config.options.ubatch_tokens,
        kv_type_k: config.options.kv_type_k,
        kv_type_v: config.options.kv_type_v,
        parallel: config.parallel,
        context_tokens: config.context_tokens,
        max_request_tokens: config.max_request_tokens,
        frugal: false,
        embedding_tokens: config.embedding_tokens,
        gpu_layers: config.gpu_layers,
    }
}

impl EngineSlot {
    /// What the next load is made with.
    pub fn load_plan(&self) -> LoadPlan {
        self.inner.lock().ladder.plan().clone()
    }

    pub(crate) fn load_spec(&self) -> LoadSpec {
        let inner = self.inner.lock();
        let (config, plan) = (&self.config, inner.ladder.plan());
        LoadSpec {
            model_path: plan.model_path.to_string_lossy().into_owned(),
            gpu_layers: plan.gpu_layers,
            device: config.gpu.clone(),
            require_gpu: inner.seen.was_on_gpu,
            context_tokens: plan.context_tokens,
            parallel: plan.parallel,
            max_request_tokens: plan.max_request_tokens,
            frugal: plan.frugal,
            threads: config.threads,
            use_mmap: config.use_mmap,
            use_mlock: config.use_mlock,
            embedding_tokens: plan.embedding_tokens,
            batch_tokens: config.options.batch_tokens,
            ubatch_tokens: plan.ubatch_tokens,
            kv_type_k: plan.kv_type_k,
            kv_type_v: plan.kv_type_v,
            rope: config.options.rope,
            overrides: config.options.overrides.clone(),
            simulated_memory: inner.seen.simulated_memory,
        }
    }

    /// What the model's file says, read before a load, and which smaller ones are here.
    pub(crate) fn know_files(&self, model: &Gguf, smaller_models: Vec<PathBuf>) {
        let known = &mut self.inner.lock().seen.known;
        known.kv_can_be_quantised = kv_can_be_quantised(model);
        known.smaller_models = smaller_models;
    }

    /// The engine of `epoch` could not load: how many layers it had tried to put on a GPU.
    pub(crate) fn load_failed(&self, epoch: u64, failure: &LoadFailure) {
        let mut inner = self.inner.lock();
        if inner.epoch == epoch {
            inner.seen.known.layers_on_gpu = failure.gpu_layers;
            inner.seen.known.embeddings_at_fault = false;
        }
    }

    /// The engine of `epoch` says on its way out that memory ran out, and whether vectors asked for it.
    pub(crate) fn told_of_no_memory(&self, epoch: u64, embeddings: bool) {
        let mut inner = self.inner.lock();
        if inner.epoch == epoch {
            inner.seen.known.embeddings_at_fault = embeddings;
        }
    }

    pub(super) fn loaded(&self, inner: &mut Inner, info: &LoadedInfo) {
        inner.seen.known.layers_on_gpu = info.gpu_layers;
        inner.seen.was_on_gpu |= info.on_gpu;
        observe::model_loaded(&observe::ModelLoaded {
            gpu: self.name(),
            device: &info.device,
            took: Duration::from_millis(info.load_ms),
            gpu_layers: info.gpu_layers,
            layers: info.layers,
            chosen_cpu: self.config.gpu.is_none() && !info.on_gpu && info.gpu_layers == 0,
        });
        observe::memory_rung(self.name(), inner.ladder.rung());
        observe::leases_limit(self.name(), inner.ladder.plan().parallel as usize);
    }

    /// The dead engine of `epoch` had told on its way out that memory ran out: the real cause of a death that only showed as
    /// an end.
    pub(crate) fn ran_out_of_memory(&self, owner: OwnerId, epoch: u64, line: String) {
        let mut inner = self.inner.lock();
        if inner.owner != Some(owner) || inner.epoch != epoch + 1 {
            return;
        }
        // The ladder's affair: the same prompt may fit when less is kept beside it.
        self.poison.resolve(&self.death_id(epoch), Guilt::Outside, Instant::now());
        let real = Cause::OutOfMemory(line);
        if let GpuState::Down { cause, look_at: None } = &mut inner.state
            && matches!(cause, Cause::Exited(_) | Cause::LinkClosed)
        {
            *cause = real.clone();
            if let Some(death) = inner.deaths_seen.back_mut() {
                death.cause = real;
            }
            self.publish(&inner);
        }
    }

    /// After a death for want of memory: one rung down and another try, if a rung is left.
    pub(super) fn steps_down(&self, inner: &mut Inner, now: Instant, jitter: f64) -> bool {
        let Some(Cause::OutOfMemory(why)) = inner.state.cause() else { return false };
        let why = why.clone();
        let Inner { ladder, seen, .. } = &mut *inner;
        let verdict = ladder.out_of_memory(&seen.known, now);
        seen.known.embeddings_at_fault = false;
        let rung = ladder.rung();
        match verdict {
            Verdict::Down(reduction) => {
                observe::memory_given_up(self.name(), rung, reduction.label(), &describe(ladder.plan()), &why);
                let wait = self.limits.backoff_min.mul_f64(jitter.clamp(0.0, 1.0));
                self.transition(inner, GpuInput::RetryAt(now + wait));
                true
            }
            Verdict::Exhausted => {
                observe::memory_exhausted(self.name(), rung, &why);
                false
            }
        }
    }

    /// Takes the last reduction back, if it is time and nobody uses the engine: ends it in good order, so that it is loaded
    /// anew. The state becomes Cold.
    pub(crate) fn climb(&self, owner: OwnerId, now: Instant) -> Option<Arc<Link>> {
        let mut inner = self.inner.lock();
        if inner.owner != Some(owner) || !inner.leases.is_empty() || !inner.state.serves() {
            return None;
        }
        let reduction = inner.ladder.climb(now)?;
        let plan = describe(inner.ladder.plan());
        observe::memory_taken_back(self.name(), inner.ladder.rung(), reduction.label(), &plan);
        inner.epoch += 1;
        inner.adopted = false;
        inner.sinks.clear();
        inner.info = None;
        let link = inner.link.take();
        inner.corpse.clone_from(&link);
        if let Some(link) = &link {
            link.send(&ToEngine::Stop);
        }
        self.transition(&mut inner, GpuInput::Stopped);
        self.publish(&inner);
        link
    }

    /// The operator has reloaded: what was given up is tried again as soon as nobody uses the engine.
    pub(crate) fn ask_memory_back(&self) {
        let mut inner = self.inner.lock();
        inner.ladder.ask_back();
        self.publish(&inner);
    }

    /// What was given up and what the model is loaded with.
    pub fn ladder(&self) -> LadderView {
        self.inner.lock().ladder.view()
    }

    /// Tests: the next loads count memory as if the CPU were a GPU of so many bytes. Obeyed by an engine with `--chaos`.
    pub fn simulate_memory(&self, bytes: Option<u64>) {
        self.inner.lock().seen.simulated_memory = bytes;
    }
}

/// A plan in one line of the log.
fn describe(plan: &LoadPlan) -> String {
    let layers = plan.gpu_layers.map_or_else(|| "auto".to_owned(), |layers| layers.to_string());
    let LoadPlan { model_path, ubatch_tokens, kv_type_k, kv_type_v, parallel, context_tokens, .. } = plan;
    let file = model_path.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "ubatch_tokens={ubatch_tokens} kv={kv_type_k}/{kv_type_v} parallel={parallel} context_tokens={context_tokens} \
         gpu_layers={layers} file={file}"
    )
}
