//! Proof that a target serves: of an engine child one decoded token, of a server a look.

use super::{
    actor::{EngineKind, GpuModelActor},
    frame::{JobEvent, JobSpec, Prompt, Sampling},
    life::Cause,
    server::{LOADING, Server},
    slot::{EngineSlot, OwnerId},
    watchdog::FIRST_STEP,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Deadline of a canary on an engine that has decoded before. Long, because on a slow CPU it waits behind a step full of
/// prompt; a hang is the watchdog's to notice.
const CANARY: Duration = Duration::from_secs(15);

/// Proof that the target serves. Of a server: it is there and has its model; whether it answers, its answers show.
pub(super) async fn canary(actor: GpuModelActor, owner: OwnerId, epoch: u64, first: bool) {
    match &actor.engine {
        EngineKind::Child { .. } => canary_of_child(&actor.slot, owner, epoch, first).await,
        EngineKind::Server(server) => look_at_server(&actor.slot, server, owner, epoch, first).await,
    }
}

async fn look_at_server(slot: &EngineSlot, server: &Server, owner: OwnerId, epoch: u64, first: bool) {
    let looked = if first {
        tokio::time::timeout(LOADING, server.awaited()).await.unwrap_or_else(|_| {
            Err(Cause::LoadFailed(format!("the server has been loading for {} s", LOADING.as_secs())))
        })
    } else {
        server.still_serves().await
    };
    match looked {
        Ok(()) => slot.canary_passed(owner, epoch, Instant::now()),
        Err(cause) => drop(slot.declare_death(epoch, cause, Instant::now())),
    }
}

/// One decode of one token, which shows more than a heartbeat. An adopted engine that is decoding for somebody right now
/// has given that proof.
async fn canary_of_child(slot: &Arc<EngineSlot>, owner: OwnerId, epoch: u64, first: bool) {
    let decodes =
        slot.link().is_some_and(|link| link.epoch() == epoch && link.pulse().lock().is_decoding(Instant::now()));
    if decodes && !first {
        return slot.canary_passed(owner, epoch, Instant::now());
    }
    let deadline = if first { FIRST_STEP } else { CANARY };
    match tokio::time::timeout(deadline, decode_one(slot, epoch)).await {
        Ok(Ok(())) => slot.canary_passed(owner, epoch, Instant::now()),
        Ok(Err(what)) => drop(slot.declare_death(epoch, Cause::CanaryFailed(what), Instant::now())),
        Err(_) => {
            let what = format!("no token in {} s", deadline.as_secs());
            slot.declare_death(epoch, Cause::CanaryFailed(what), Instant::now());
        }
    }
}

async fn decode_one(slot: &Arc<EngineSlot>, epoch: u64) -> Result<(), String> {
    let spec = JobSpec {
        job: 0,
        prompt: Prompt::Text("1".to_owned()),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: 1,
        stop: Vec::new(),
        replay: Vec::new(),
        sent_bytes: 0,
        canary: true,
        logprobs: None,
        logit_bias: Vec::new(),
        grammar: None,
        markers: false,
        cache_scope: 0,
    };
    let Some(mut outputs) = slot.submit(epoch, None, spec) else {
        let same = slot.view().epoch == epoch;
        return if same { Err("the engine takes no orders".to_owned()) } else { Ok(()) };
    };
    loop {
        match outputs.next().await {
            Some(JobEvent::Finished { .. }) => return Ok(()),
            Some(JobEvent::Failed(failure)) => return Err(failure.message),
            Some(_) => {}
            // The engine died under the canary: its death is declared already.
            None => return Ok(()),
        }
    }
}
