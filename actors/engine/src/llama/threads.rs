//! Another number of threads in mid-work.
//!
//! A context keeps the number it was made with, so a second one takes the place of the first, with the cells of all
//! sequences. That costs as much time as making and copying the cells, in which nobody gets a token, and memory for both
//! at once: where that is too much, all stays as it is.

use super::Llama;
use crate::{memory, process::say, threads::look_now};
use llama_cpp_2::context::LlamaContext;
use std::time::Duration;

/// Of the memory that is there, a change leaves half alone.
const SHARE_OF_MEMORY: u64 = 2;
/// What is moved within a second on a slow machine: 1.5 GB took 4 s on two cores, and the gateway takes 5 s without a step
/// for a hang.
const MOST_BYTES: u64 = 256 << 20;

impl Llama {
    /// Looks, if it is time, and changes the number of threads if others keep our cores busy, or have gone.
    pub(super) fn follow_neighbours(&mut self) {
        let Some(crew) = &mut self.crew else { return };
        let at = monotonic();
        if !crew.is_due(at) {
            return;
        }
        let Some(threads) = look_now(at).and_then(|look| crew.look(look)) else { return };
        match self.replace_context(threads) {
            Ok(()) => say(&format!("decodes with {threads} thread{} now, as others use the cores", plural(threads))),
            Err(why) => {
                say(&format!("decodes with as many threads as before: {why}"));
                self.crew = None;
            }
        }
    }

    fn replace_context(&mut self, threads: u32) -> Result<(), &'static str> {
        let threads = i32::try_from(threads).map_err(|_| "too many threads")?;
        let cells = self.context.get_state_size();
        let needed = self.context_bytes.saturating_add(u64::try_from(cells).unwrap_or(u64::MAX));
        if needed > MOST_BYTES {
            return Err("its context is too large to be replaced in a moment");
        }
        if memory::available().is_some_and(|available| needed > available / SHARE_OF_MEMORY) {
            return Err("there is no memory for two contexts at once");
        }
        let params = self.params.clone().with_n_threads(threads).with_n_threads_batch(threads);
        let made = self.model.new_context(&self.library, params.clone());
        // A change that failed for want of memory changed nothing: no reason to end this engine.
        let ran_out = memory::ran_out();
        let mut context = made.map_err(|_| "llama.cpp makes no second context")?;
        copy_cells(&self.context, &mut context, cells)?;
        let sequences = 0..=i32::try_from(self.limits.parallel).unwrap_or(i32::MAX);
        let same = |sequence| self.context.kv_cache_seq_pos_max(sequence) == context.kv_cache_seq_pos_max(sequence);
        if ran_out || !sequences.into_iter().all(same) {
            return Err("the second context does not hold what the first one holds");
        }
        (self.context, self.params) = (context, params);
        Ok(())
    }
}

const fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Copies the cells of all sequences, with what they share. `len` is the source's `get_state_size`.
fn copy_cells(from: &LlamaContext<'_>, to: &mut LlamaContext<'_>, len: usize) -> Result<(), &'static str> {
    let mut bytes = vec![0; len];
    #[expect(unsafe_code, reason = "llama-cpp-2 has no safe way to copy the cells of all sequences at once")]
    // SAFETY: the buffer has the size that this context just asked for, and nothing ran in between; the other context is
    // of the same model and reads no further than what the first one wrote.
    let (written, read) = unsafe { (from.copy_state_data(bytes.as_mut_ptr()), to.set_state_data(&bytes)) };
    if written == len && read == len { Ok(()) } else { Err("the cells cannot be copied") }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
