//! One attempt at vectors: texts in, all of them back or none. Nothing is shown before the last is there, so whatever fails
//! is repeated as a whole, and only where the same model is served: vectors of two models cannot be compared.

use super::{Failure, Flight, FlightEvent, cloud, local, server, so_far::SoFar};
use crate::{
    cloud::{Grant, count},
    domain::{ChatRequest, CloudBound, ErrorKind, GatewayError, Input, Outbound, Passage, TokenUsage},
    gpu::{
        JobStream, Lease,
        frame::{JobEvent, Prompt},
        server::Server,
    },
    route::Decision,
    upstream::embed,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// One local attempt's running state.
#[derive(Default)]
struct Progress {
    first: Option<Duration>,
    usage: TokenUsage,
}

impl Flight {
    pub(super) async fn embed_local(&mut self, decision: &Decision) -> Result<(), Failure> {
        let (began, mut progress) = (Instant::now(), Progress::default());
        self.set_out(began);
        self.begin_draw(decision);
        let result = match self.job.take_lease() {
            Some(lease) => self.embed_on(&lease, decision, began, &mut progress).await,
            None => Err(local::engine_gone(decision).into()),
        };
        self.note_refusal(&result);
        let outcome = match &result {
            Ok(_) => "ok",
            Err(failure) if failure.death.is_some() => "engine_died",
            Err(failure) => failure.error.kind.label(),
        };
        self.record_attempt(decision, outcome, began, progress.first, progress.usage);
        let vectors = result?;
        self.usage = progress.usage;
        self.finished = true;
        self.emit(FlightEvent::Embedded(vectors)).await;
        Ok(())
    }

    async fn embed_on(
        &mut self,
        lease: &Lease,
        decision: &Decision,
        began: Instant,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        if let Some(server) = lease.server() {
            return self.embed_at(lease, &server, decision, began, progress).await;
        }
        let prompts = prompts(self.request());
        let due = prompts.len();
        self.note_dispatch(decision, SoFar::new(began));
        let Some(mut outputs) = lease.embed(prompts) else { return Err(local::died(lease, decision)) };
        let mut vectors = vec![None; due];
        self.gather(&mut outputs, lease, decision, began, progress, &mut vectors).await?;
        let whole: Option<Vec<Vec<f32>>> = vectors.into_iter().collect();
        let lacking = || GatewayError::target(&decision.candidate.target, ErrorKind::Upstream, "a vector is missing");
        Ok(whole.ok_or_else(lacking)?)
    }

    /// At a server of the operator's. It answers as a whole, so its death shows as the end of the lease.
    async fn embed_at(
        &mut self,
        lease: &Lease,
        server: &Server,
        decision: &Decision,
        began: Instant,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        self.note_dispatch(decision, SoFar::asked(began, count::prompt_tokens(self.request())));
        let (job, target) = (Arc::clone(&self.job), &decision.candidate.target);
        let bound = Outbound::to_local(&job.request, server.premises()).ok_or_else(|| {
            GatewayError::target(target, ErrorKind::Internal, "a local-only request for a server that may be anywhere")
        })?;
        let body = embed::body(bound, &server.upstream()).map_err(GatewayError::unworked)?;
        let client = server.client().clone().suffering(self.services.faults.befall(&[target.as_str()]));
        let asking = client.embed(body, self.course.call_id(&job), server.key(), job.request.prompts(), job.deadline);
        let answer = tokio::select! {
            biased;
            () = lease.revoked() => return Err(local::died(lease, decision)),
            answer = asking => answer,
        };
        match answer {
            Ok(answer) => {
                self.note_answering();
                lease.slot().heard(lease.epoch(), Instant::now());
                progress.first = Some(began.elapsed());
                self.note_first_token(decision, began);
                progress.usage = answer.usage.unwrap_or_else(|| TokenUsage {
                    prompt_tokens: count::prompt_tokens(&job.request),
                    estimated: true,
                    ..TokenUsage::default()
                });
                Ok(answer.vectors)
            }
            Err(error) => Err(server::judged(lease, decision, error.into()).await),
        }
    }

    async fn gather(
        &mut self,
        outputs: &mut JobStream,
        lease: &Lease,
        decision: &Decision,
        began: Instant,
        progress: &mut Progress,
        vectors: &mut [Option<Vec<f32>>],
    ) -> Result<(), Failure> {
        loop {
            let event = outputs.next().await;
            self.note_seated(began, outputs.seated());
            match event {
                Some(JobEvent::Accepted { prompt_tokens, .. }) => {
                    progress.usage.prompt_tokens = u64::from(prompt_tokens);
                    self.note_taken(progress.usage);
                }
                Some(JobEvent::Vector { input, values }) => {
                    if progress.first.is_none() {
                        progress.first = Some(began.elapsed());
                        self.note_first_token(decision, began);
                    }
                    if let Some(place) = vectors.get_mut(input as usize) {
                        *place = Some(values);
                    }
                }
                Some(JobEvent::Finished { prompt_tokens, .. }) => {
                    progress.usage.prompt_tokens = u64::from(prompt_tokens);
                    return Ok(());
                }
                Some(JobEvent::Failed(failure)) => {
                    let mut error = local::refused(decision, failure);
                    error.param = Some("input".into());
                    return Err(error.into());
                }
                Some(JobEvent::Piece { .. } | JobEvent::Echoed { .. }) => {}
                None => return Err(local::died(lease, decision)),
            }
        }
    }

    /// As [`call`](Self::fly_cloud) does it for text.
    pub(super) async fn embed_in_cloud(
        &mut self,
        grant: &Grant,
        model: usize,
        decision: &Decision,
        progress: &mut cloud::Progress,
    ) -> Result<(), Failure> {
        let internal = |what| GatewayError::target(&decision.candidate.target, ErrorKind::Internal, what);
        let job = Arc::clone(&self.job);
        let bound = CloudBound::new(&job.request).ok_or_else(|| internal("a local-only request"))?;
        let provider = Arc::clone(grant.provider());
        let model = provider.model(model).ok_or_else(|| internal("no such model"))?;
        let key = grant.key().ok_or_else(|| internal("no such key"))?;
        let body = embed::body(bound, &model.upstream).map_err(GatewayError::unworked)?;
        self.note_dispatch(decision, progress.so_far);
        let due = job.request.prompts();
        let client = provider.client().clone().suffering(self.befalls_cloud(&provider, &model));
        let answer = client.embed(body, self.course.call_id_abroad(&job), key, due, job.deadline).await?;
        self.note_answering();
        progress.answered(answer.usage);
        self.note_first_token(decision, progress.began);
        self.usage = self.counted(progress, decision);
        self.finished = true;
        self.emit(FlightEvent::Embedded(answer.vectors)).await;
        Ok(())
    }
}

fn prompts(request: &ChatRequest) -> Vec<Prompt> {
    match &request.input {
        Input::Several(passages) => passages.iter().map(local::passage).collect(),
        Input::Text(text) => vec![Prompt::Text(text.clone())],
        Input::Tokens(tokens) => vec![local::passage(&Passage::Tokens(tokens.clone()))],
        Input::Messages(_) => Vec::new(),
    }
}
